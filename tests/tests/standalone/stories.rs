//! Random streams of a vendor with their true usage, and random ways to split them.

use la_core::usage::Usage;
use la_tests::fakes::{Answer, Framing};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

/// One stream, and what it used.
pub(crate) struct Story {
    pub(crate) answer: Answer,
    pub(crate) used: Usage,
}

/// Texts that a careless reader of streams trips over.
const TEXTS: [&str; 12] = [
    "plain",
    "",
    "\"usage\":{\"output_tokens\":999999}",
    "event: message_stop\n\ndata: {\"type\":\"message_stop\"}\n\n",
    "\\\"usage\\\"",
    "line\nline\r\nline\r",
    "ünïcödé ✓ 😀 \u{2028}\u{2029}\u{feff}\u{0}",
    "}}]]\"\\",
    "data: ",
    ": comment",
    "0\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\n",
];

struct Telling<'a> {
    random: &'a mut StdRng,
    line_end: &'static str,
    body: String,
    used: Usage,
}

/// Makes a stream.
pub(crate) fn tell(random: &mut StdRng) -> Story {
    let line_end = ["\n", "\n", "\r\n", "\r"].choose(random).copied().unwrap_or("\n");
    let mut telling = Telling { random, line_end, body: String::new(), used: Usage::default() };
    telling.start();
    for _ in 0..telling.random.random_range(0..30) {
        telling.something();
    }
    for _ in 0..telling.random.random_range(1..4) {
        telling.count();
        telling.noise();
    }
    telling.event("message_stop", &json!({"type": "message_stop"}));
    let (body, used) = (telling.body, telling.used);
    Story { answer: split(random, body.into_bytes()), used }
}

impl Telling<'_> {
    fn start(&mut self) {
        let usage = self.usage();
        let message = json!({"id": "msg_1", "role": "assistant", "content": [], "usage": usage});
        self.event("message_start", &json!({"type": "message_start", "message": message}));
    }

    fn count(&mut self) {
        let usage = self.usage();
        self.event(
            "message_delta",
            &json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}),
        );
    }

    /// Counts of which some are missing, some null, and the rest replace what was.
    fn usage(&mut self) -> Value {
        let mut usage = serde_json::Map::new();
        usage.insert("service_tier".to_owned(), "standard".into());
        let slots = [
            ("input_tokens", &mut self.used.input_tokens),
            ("output_tokens", &mut self.used.output_tokens),
            ("cache_creation_input_tokens", &mut self.used.cache_write_tokens),
            ("cache_read_input_tokens", &mut self.used.cache_read_tokens),
        ];
        for (name, slot) in slots {
            match self.random.random_range(0..4) {
                0 => continue,
                1 => usage.insert(name.to_owned(), Value::Null),
                _ => {
                    *slot += self.random.random_range(0..5000);
                    usage.insert(name.to_owned(), (*slot).into())
                }
            };
        }
        usage.into()
    }

    fn something(&mut self) {
        let text = TEXTS.choose(self.random).copied().unwrap_or_default();
        let text = text.repeat(self.random.random_range(1..20));
        match self.random.random_range(0..6) {
            0 => self.event("ping", &json!({"type": "ping"})),
            1 => self.event(
                "content_block_start",
                &json!({"type": "content_block_start", "content_block": {"text": text}}),
            ),
            2 => self.event("news_of_tomorrow", &json!({"usage": {"output_tokens": 1}, "text": text})),
            3 => self.noise(),
            _ => self.event(
                "content_block_delta",
                &json!({"type": "content_block_delta", "delta": {"text": text}}),
            ),
        }
    }

    /// What is no event: comments, unknown fields, empty lines.
    fn noise(&mut self) {
        let noise =
            ["", ": keep-alive\n", ":\n\n", "id: 7\n", "retry: 10\nunknown\n", "\n"].choose(self.random);
        self.body.push_str(&noise.copied().unwrap_or_default().replace('\n', self.line_end));
    }

    fn event(&mut self, name: &str, data: &Value) {
        let space = if self.random.random_bool(0.8) { " " } else { "" };
        let text = format!("event:{space}{name}\ndata:{space}{data}\n\n");
        self.body.push_str(&text.replace('\n', self.line_end));
    }
}

/// Splits a stream at random bytes, into chunks and, independently, into writes.
fn split(random: &mut StdRng, body: Vec<u8>) -> Answer {
    let mut places = |most: usize| -> Vec<usize> {
        let count = random.random_range(0..most);
        let mut places: Vec<usize> = (0..count).map(|_| random.random_range(0..=body.len() + 40)).collect();
        places.sort_unstable();
        places
    };
    let (chunks, cuts) = (places(60), places(60));
    let framing = [Framing::Chunked, Framing::Chunked, Framing::Length, Framing::UntilClose].choose(random);
    let framing = framing.copied().unwrap_or(Framing::Chunked);
    let chunks = chunks.into_iter().filter(|at| *at <= body.len()).collect();
    Answer { chunks, cuts, ..Answer::new(200, "text/event-stream; charset=utf-8", body) }.framed(framing)
}
