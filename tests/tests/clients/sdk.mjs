// The official SDK for TypeScript, told nothing but a base URL and a token: sdk.mjs create|stream|refused
//
// Prints one JSON object: what came, or how it was refused. It is run from the directory that has the SDK.
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.cwd(), "index.js"));
const { Anthropic, APIError } = require("@anthropic-ai/sdk");

const ask = { model: "claude-haiku-4-5", max_tokens: 64, messages: [{ role: "user", content: "Say hello." }] };
const client = new Anthropic({ maxRetries: 0 });

const seen = (message) => ({
  stop: message.stop_reason,
  input: message.usage.input_tokens,
  output: message.usage.output_tokens,
});

async function create() {
  const message = await client.messages.create(ask);
  return { text: message.content[0].text, ...seen(message) };
}

async function stream() {
  const events = client.messages.stream(ask);
  const pieces = [];
  events.on("text", (text) => pieces.push(text));
  const message = await events.finalMessage();
  return { text: pieces.join(""), pieces: pieces.length, ...seen(message) };
}

async function refused() {
  let last = { class: null };
  for (const work of [create, stream]) {
    last = { class: null };
    try {
      await work();
    } catch (error) {
      if (!(error instanceof APIError)) throw error;
      const { type, message } = error.error.error;
      last = { class: error.constructor.name, status: error.status, type, message };
    }
  }
  return last;
}

console.log(JSON.stringify(await { create, stream, refused }[process.argv[2]]()));
