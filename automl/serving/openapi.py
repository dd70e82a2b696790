"""The OpenAPI document of a served artifact, written from its schema, and the same as a page that needs no other host."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

from .model import Served
from .schema import sample_rows

if TYPE_CHECKING:
    from .app import Limits

_PROBLEMS = {
    "400": "The body is not JSON, or no request of the protocol",
    "413": "More bytes or rows than one request may hold",
    "415": "The body is not application/json",
    "422": "A row that does not fit the schema: the answer names row, field and what was found",
    "503": "More requests at a time than allowed: try again",
}


def document(served: Served, limits: Limits) -> dict[str, Any]:
    """OpenAPI 3.1 of all paths."""
    example = sample_rows(served.fields, 1)[0]
    name = served.name.replace("~", "~0")
    infer = {
        "inputs": [
            {"name": key, "shape": [1], "datatype": _datatype(value), "data": [value]} for key, value in example.items()
        ]
    }
    one, many = {"$ref": "#/components/schemas/Row"}, {"$ref": "#/components/schemas/Rows"}
    predict = _post(
        "Predict one row, or a list of rows",
        {"oneOf": [one, many]},
        {"oneOf": [{"$ref": "#/components/schemas/Prediction"}, {"$ref": "#/components/schemas/Predictions"}]},
        example,
    )
    request = {"$ref": "#/components/schemas/InferenceRequest"}
    answer = {"$ref": "#/components/schemas/InferenceResponse"}
    paths: dict[str, Any] = {"/predict": {"post": predict}}
    for base in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{served.version}"):
        paths[f"{base}/infer"] = {"post": _post("Open Inference Protocol: infer", request, answer, infer)}
        paths[base] = {"get": _get("Open Inference Protocol: the model's metadata")}
        paths[f"{base}/ready"] = {"get": _get("Open Inference Protocol: is the model ready")}
    for path, what in (
        ("/v2", "Open Inference Protocol: the server's metadata"),
        ("/v2/health/live", "Open Inference Protocol: is the server alive"),
        ("/v2/health/ready", "Open Inference Protocol: is the server ready"),
        ("/healthz", "Is the server alive"),
        ("/readyz", "Is the server ready"),
    ):
        paths[path] = {"get": _get(what)}
    paths["/metrics"] = {"get": _get("Prometheus metrics", "text/plain")}
    return {
        "openapi": "3.1.0",
        "info": {"title": served.name, "version": served.version, "description": f"A {served.task} model."},
        "paths": paths,
        "components": {"schemas": _schemas(served, limits)},
    }


def _schemas(served: Served, limits: Limits) -> dict[str, Any]:
    prediction: dict[str, Any] = {
        "type": "object",
        "required": ["prediction"],
        "properties": {"prediction": {"type": "number"}},
    }
    if served.labels:
        prediction["required"] = ["prediction", "probabilities"]
        prediction["properties"] = {
            "prediction": {"enum": served.labels},
            "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
        }
    row = {
        "type": "object",
        "required": [f.name for f in served.fields if not f.optional],
        "properties": {f.name: f.json_schema() for f in served.fields},
    }
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string"},
            "data": {"type": "array"},
        },
    }
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {"type": "string"},
            "details": {"type": "array", "items": {"type": "object"}},
        },
    }
    return {
        "Row": row,
        "Rows": {"type": "array", "items": {"$ref": "#/components/schemas/Row"}, "maxItems": limits.rows},
        "Prediction": prediction,
        "Predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
        "InferenceRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string"},
                "inputs": {"type": "array", "items": tensor},
                "outputs": {"type": "array", "items": {"type": "object"}},
            },
        },
        "InferenceResponse": {
            "type": "object",
            "required": ["model_name", "outputs"],
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "outputs": {"type": "array", "items": tensor},
            },
        },
        "Error": error,
    }


def _datatype(value: Any) -> str:
    return "FP64" if isinstance(value, float) else "BYTES"


def _post(summary: str, body: dict[str, Any], answer: dict[str, Any], example: Any) -> dict[str, Any]:
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body, "example": example}}},
        "responses": {
            "200": {"description": "The predictions", "content": {"application/json": {"schema": answer}}},
            **{code: {"description": text, "content": problem} for code, text in _PROBLEMS.items()},
        },
    }


def _get(summary: str, kind: str = "application/json") -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": {kind: {}}}}}


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse }} td, th {{ text-align: left; padding: .2em 1em .2em 0; vertical-align: top }}
pre {{ background: #8882; padding: 1em; overflow: auto }}
</style></head><body><h1>{title}</h1><p>A {task} model, version {version}. The machine-readable form of this page is
<a href="/openapi.json">/openapi.json</a>.</p><h2>Paths</h2><table>{paths}</table>
<h2>Columns of a row</h2><table><tr><th>column</th><th>kind</th><th>what it may be</th></tr>{fields}</table>
<h2>Example</h2><pre>curl -H 'Content-Type: application/json' -d @row.json http://HOST:PORT/predict</pre>
<p>with row.json, or a list of such rows:</p><pre>{example}</pre><p>The answer:</p><pre>{answer}</pre></body></html>
"""


def page(served: Served, limits: Limits) -> str:
    """The document as HTML; every name from the data is escaped."""
    found = document(served, limits)
    paths = "".join(
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td><td>{html.escape(operation['summary'])}</td></tr>"
        for path, operations in found["paths"].items()
        for method, operation in operations.items()
    )
    fields = "".join(
        f"<tr><td><code>{html.escape(f.name)}</code></td><td>{f.kind}</td>"
        f"<td>{html.escape(f.json_schema()['description'])}</td></tr>"
        for f in served.fields
    )
    example = found["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    return PAGE.format(
        title=html.escape(served.name),
        task=served.task,
        version=served.version,
        paths=paths,
        fields=fields,
        example=html.escape(json.dumps(example, indent=1, ensure_ascii=False)),
        answer=html.escape(served.one(example).decode()),
    )
