"""The reference page: the OpenAPI document as HTML, with nothing loaded from elsewhere."""

import json
from html import escape
from typing import Any

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;
color:#1d2430;background:#fbfaf7}
h2{margin:2.2rem 0 .3rem;font-size:1.1rem}code,pre{font:14px/1.5 ui-monospace,monospace}
pre{background:#f0ede6;padding:.8rem;overflow:auto;border-radius:6px}
table{border-collapse:collapse}td,th{text-align:left;padding:.2rem 1.2rem .2rem 0;
vertical-align:top}.verb{color:#8a3b12}
@media(prefers-color-scheme:dark){body{color:#e6e2d8;background:#16181d}
pre{background:#22252c}.verb{color:#f0a070}}
"""


def reference_page(document: dict[str, Any]) -> str:
    """Return the page. ``document``: OpenAPI 3.1."""
    operations = [
        _operation(verb, path, said)
        for path, verbs in document["paths"].items()
        for verb, said in verbs.items()
    ]
    schemas = document.get("components", {}).get("schemas", {})
    shapes = [_schema(name, schemas[name]) for name in sorted(schemas)]
    info = document["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>songcast: reference</title>'
        f'<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{escape(info['description'])} Machines read "
        f'<a href="openapi.json">openapi.json</a>; <a href="./">back to the page</a>.</p>'
        f"{''.join(operations)}<h1>Messages</h1>{''.join(shapes)}</html>"
    )


def _operation(verb: str, path: str, said: dict[str, Any]) -> str:
    params = [
        (p["name"], f"{_type(p['schema'])}, default {p['schema'].get('default', 'none')}")
        for p in said.get("parameters", ())
    ]
    bodies = [
        (f"body, {media}", _type(content["schema"]))
        for media, content in said.get("requestBody", {}).get("content", {}).items()
    ]
    answers = [
        (status, answer.get("description", "")) for status, answer in said["responses"].items()
    ]
    return (
        f'<h2><span class="verb">{verb.upper()}</span> <code>{escape(path)}</code></h2>'
        f"<p>{escape(said.get('summary', ''))}</p>"
        f"{_table('takes', params + bodies)}{_table('answers', answers)}"
    )


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f"<tr><td><code>{escape(a)}</code></td><td>{escape(b)}</td></tr>" for a, b in rows
    )
    return f"<table><tr><th>{title}</th></tr>{lines}</table>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    return f"<h2><code>{escape(name)}</code></h2><pre>{escape(json.dumps(schema, indent=2))}</pre>"


def _type(schema: dict[str, Any]) -> str:
    """Say a schema's type in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    bounds = {"exclusiveMinimum": "above", "minimum": "from", "maximum": "to"}
    said = [f"{word} {schema[key]:g}" for key, word in bounds.items() if key in schema]
    return " ".join([str(schema.get("format", schema.get("type", "any"))), *said])
