//! A YAML stream as JSON values, one per document.

use serde::Deserialize as _;
use serde_json::Value;

/// The documents of `text`; `None` for an empty one. What cannot be read ends the stream.
pub(super) fn split(text: &str) -> Vec<Result<Option<Value>, String>> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        // Through YAML's own value, because JSON's lets the last of two equal keys win in silence.
        let read = serde_yaml::Value::deserialize(document);
        let failed = read.is_err();
        documents.push(read.map_err(|error| error.to_string()).and_then(json));
        if failed {
            break;
        }
    }
    documents
}

fn json(value: serde_yaml::Value) -> Result<Option<Value>, String> {
    if value.is_null() {
        return Ok(None);
    }
    serde_json::to_value(value).map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_ends_where_it_stops_making_sense() {
        let documents = split("---\na: 1\n---\n---\n# nothing\n---\na: 1\na: 2\n---\nb: 1\n");
        let [Ok(Some(first)), Ok(None), Ok(None), Err(twice)] = &documents[..] else {
            panic!("{documents:?}")
        };
        assert_eq!(first["a"], 1);
        assert!(twice.contains("duplicate") && twice.contains("\"a\""), "{twice}");
        assert!(split("a: [").iter().any(Result::is_err));
        assert!(split("").iter().all(|document| document == &Ok(None)));
    }
}
