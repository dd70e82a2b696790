"""The endpoint that `server.py` compares with: FastAPI and pydantic as their tutorials have it, the same model behind it.

    ARTIFACT=served RUNTIME=estimators python -m uvicorn server_peer:app

`/predict` is `async def`, `/predict_sync` the plain `def` that FastAPI runs in a thread pool.
"""

import os
import sys
from typing import Any

from fastapi import FastAPI
from pydantic import create_model

sys.path.insert(0, os.environ["RUNTIME"])
import runtime

model = runtime.load(os.environ["ARTIFACT"])
kinds = {entry[0]: float if entry[1] == "numeric" else str for entry in model.manifest["encoder"]["schema"]}
fields: dict[str, Any] = {name: (kinds[name] | None, None) for name in model.used}
Row = create_model("Row", **fields)
Answer = create_model("Answer", prediction=(str, ...), probabilities=(dict[str, float], ...))
labels = [str(label) for label in model.classes_]
app = FastAPI()


def answer(row: Any) -> Any:
    found = model.predict_proba_one(row.model_dump())
    return Answer(prediction=labels[int(found.argmax())], probabilities=dict(zip(labels, found.tolist(), strict=True)))


@app.post("/predict")
async def predict(row: Row) -> Answer:  # type: ignore[valid-type]
    return answer(row)


@app.post("/predict_sync")
def predict_sync(row: Row) -> Answer:  # type: ignore[valid-type]
    return answer(row)
