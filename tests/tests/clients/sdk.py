"""The official SDK for Python, told nothing but a base URL and a token: sdk.py create|stream|refused

Prints one JSON object: what came, or how it was refused.
"""
import json
import sys

import anthropic

ASK = dict(model="claude-haiku-4-5", max_tokens=64, messages=[{"role": "user", "content": "Say hello."}])


def create(client):
    message = client.messages.create(**ASK)
    return {
        "text": message.content[0].text,
        "stop": message.stop_reason,
        "input": message.usage.input_tokens,
        "output": message.usage.output_tokens,
    }


def stream(client):
    with client.messages.stream(**ASK) as events:
        pieces = list(events.text_stream)
        message = events.get_final_message()
    return {
        "text": "".join(pieces),
        "pieces": len(pieces),
        "stop": message.stop_reason,
        "input": message.usage.input_tokens,
        "output": message.usage.output_tokens,
    }


def refused(client):
    for ask in (create, stream):
        try:
            ask(client)
        except anthropic.APIStatusError as error:
            seen = {"class": type(error).__name__, "status": error.status_code, "type": error.body["error"]["type"]}
            seen["message"] = error.body["error"]["message"]
            if ask is stream:
                return seen
    return {"class": None}


work = {"create": create, "stream": stream, "refused": refused}[sys.argv[1]]
print(json.dumps(work(anthropic.Anthropic(max_retries=0))))
