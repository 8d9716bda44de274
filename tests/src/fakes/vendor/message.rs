//! One message of the vendor, whole or as the events of a stream.

use serde_json::{Value, json as value};

/// What a message says and used.
#[derive(Debug, Clone)]
pub struct Turn {
    pub model: String,
    /// Thinking before the text, with a signature.
    pub thinking: Option<String>,
    pub text: String,
    /// The tool that it calls at its end.
    pub tool: Option<ToolCall>,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// A call of one of the client's tools.
#[derive(Debug, Clone)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub input: Value,
}

/// Bytes of a text in one delta, so that short answers come in several.
const DELTA_CHARACTERS: usize = 12;

/// Bytes of the text that `script-huge` gets.
const HUGE_BYTES: usize = 8 << 20;

const SIGNATURE: &str = "c2NyaXB0ZWQgc2lnbmF0dXJl";

impl Turn {
    /// The turn that answers a request.
    pub fn asked_for_by(request: &Value) -> Self {
        let model = request.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
        let thinks =
            request.pointer("/thinking/type").and_then(Value::as_str).is_some_and(|kind| kind != "disabled");
        let (input_tokens, output_tokens) = used(&model).unwrap_or((25, 42));
        Self {
            thinking: thinks.then(|| "The caller wants a short answer.".to_owned()),
            text: if model == "script-huge" {
                "x".repeat(HUGE_BYTES)
            } else {
                "Hello from the scripted upstream. ✓".to_owned()
            },
            tool: (model == "script-tools").then(ToolCall::add),
            input_tokens,
            output_tokens,
            model,
        }
    }

    fn stop_reason(&self) -> &'static str {
        if self.tool.is_some() { "tool_use" } else { "end_turn" }
    }

    fn head(&self, content: &Value, stop_reason: &Value, output_tokens: u64) -> Value {
        value!({
            "id": "msg_scripted", "type": "message", "role": "assistant", "model": self.model,
            "content": content, "stop_reason": stop_reason, "stop_sequence": null,
            "usage": {
                "input_tokens": self.input_tokens, "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0, "output_tokens": output_tokens, "service_tier": "standard",
            },
        })
    }
}

impl ToolCall {
    fn add() -> Self {
        Self { id: "toolu_scripted".to_owned(), name: "add".to_owned(), input: value!({"a": 1, "b": 2}) }
    }

    fn block(&self, input: &Value) -> Value {
        value!({"type": "tool_use", "id": self.id, "name": self.name, "input": input})
    }
}

fn used(model: &str) -> Option<(u64, u64)> {
    let (input, output) = model.strip_prefix("script-usage-")?.split_once('-')?;
    Some((input.parse().ok()?, output.parse().ok()?))
}

/// The message as one JSON object.
pub fn json(turn: &Turn) -> String {
    let mut content = Vec::new();
    if let Some(thinking) = &turn.thinking {
        content.push(value!({"type": "thinking", "thinking": thinking, "signature": SIGNATURE}));
    }
    content.push(value!({"type": "text", "text": turn.text}));
    content.extend(turn.tool.iter().map(|tool| tool.block(&tool.input)));
    turn.head(&content.into(), &turn.stop_reason().into(), turn.output_tokens).to_string()
}

/// The message as events, each with its empty line.
pub fn stream(turn: &Turn) -> Vec<String> {
    let mut events = Events::default();
    let start = turn.head(&value!([]), &Value::Null, 1);
    events.push("message_start", &value!({"type": "message_start", "message": start}));
    events.push("ping", &value!({"type": "ping"}));
    if let Some(thinking) = &turn.thinking {
        let mut deltas = texts(thinking, |text| value!({"type": "thinking_delta", "thinking": text}));
        deltas.push(value!({"type": "signature_delta", "signature": SIGNATURE}));
        events.block(&value!({"type": "thinking", "thinking": "", "signature": ""}), deltas);
    }
    let deltas = texts(&turn.text, |text| value!({"type": "text_delta", "text": text}));
    events.block(&value!({"type": "text", "text": ""}), deltas);
    if let Some(tool) = &turn.tool {
        let delta = |part| value!({"type": "input_json_delta", "partial_json": part});
        let mut deltas = vec![delta(String::new())];
        deltas.extend(texts(&tool.input.to_string(), delta));
        events.block(&tool.block(&value!({})), deltas);
    }
    let delta = value!({
        "type": "message_delta",
        "delta": {"stop_reason": turn.stop_reason(), "stop_sequence": null},
        "usage": {"output_tokens": turn.output_tokens},
    });
    events.push("message_delta", &delta);
    events.push("message_stop", &value!({"type": "message_stop"}));
    events.list
}

#[derive(Default)]
struct Events {
    list: Vec<String>,
    blocks: usize,
}

impl Events {
    fn push(&mut self, name: &str, data: &Value) {
        self.list.push(format!("event: {name}\ndata: {data}\n\n"));
    }

    fn block(&mut self, start: &Value, deltas: Vec<Value>) {
        let index = self.blocks;
        self.blocks += 1;
        self.push(
            "content_block_start",
            &value!({"type": "content_block_start", "index": index, "content_block": start}),
        );
        for delta in deltas {
            self.push(
                "content_block_delta",
                &value!({"type": "content_block_delta", "index": index, "delta": delta}),
            );
        }
        self.push("content_block_stop", &value!({"type": "content_block_stop", "index": index}));
    }
}

/// A text as deltas; a huge one in larger pieces.
fn texts(text: &str, delta: impl Fn(String) -> Value) -> Vec<Value> {
    let characters: Vec<char> = text.chars().collect();
    let size = DELTA_CHARACTERS.max(characters.len() / 1024);
    characters.chunks(size).map(|piece| delta(piece.iter().collect())).collect()
}
