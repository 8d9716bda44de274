//! A Secret volume on disk the way a kubelet writes one: files in a dated directory behind the link `..data`,
//! which is swapped atomically, and one link per key.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde_json::Value;

/// The decoded content of a Secret.
pub(super) fn content(secret: &Value) -> Result<BTreeMap<String, Vec<u8>>> {
    let data = secret.get("data").and_then(Value::as_object);
    let decode = |(key, value): (&String, &Value)| {
        let text = value.as_str().with_context(|| format!("{key} is not a text"))?;
        Ok((key.clone(), base64::engine::general_purpose::STANDARD.decode(text)?))
    };
    data.into_iter().flatten().map(decode).collect()
}

/// Writes `files` into the volume at `directory`; readers see all of the old or all of the new.
pub(super) fn write(directory: &Path, files: &BTreeMap<String, Vec<u8>>, round: u64) -> Result<()> {
    let dated = format!("..round_{round}");
    let target = directory.join(&dated);
    std::fs::create_dir_all(&target)?;
    for (key, bytes) in files {
        let file = target.join(key);
        std::fs::write(&file, bytes)?;
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o440))?;
    }
    let (new, data) = (directory.join("..data_tmp"), directory.join("..data"));
    let before = std::fs::read_link(&data).ok();
    symlink(&dated, &new)?;
    std::fs::rename(&new, &data)?;
    for key in files.keys() {
        let link = directory.join(key);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(key), &link)?;
        }
    }
    remove_old(directory, files)?;
    match before {
        Some(before) if before != Path::new(&dated) => Ok(std::fs::remove_dir_all(directory.join(before))?),
        _ => Ok(()),
    }
}

fn remove_old(directory: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !files.contains_key(&name) {
            std::fs::remove_file(directory.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_follow_one_link_to_the_newest_content() {
        let directory = tempfile::tempdir().unwrap();
        let files = |value: &str| BTreeMap::from([("a".to_owned(), value.as_bytes().to_vec())]);
        write(directory.path(), &files("one"), 1).unwrap();
        write(directory.path(), &files("two"), 2).unwrap();
        assert_eq!(std::fs::read_to_string(directory.path().join("a")).unwrap(), "two");
        assert_eq!(std::fs::read_link(directory.path().join("..data")).unwrap(), Path::new("..round_2"));
        assert!(!directory.path().join("..round_1").exists());
        write(directory.path(), &BTreeMap::new(), 3).unwrap();
        assert!(directory.path().join("a").symlink_metadata().is_err());
    }
}
