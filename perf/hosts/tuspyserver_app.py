"""tuspyserver in an application of its own: ``uvicorn tuspyserver_app:app``."""

from __future__ import annotations

import os

from fastapi import FastAPI
from tuspyserver import create_tus_router

app = FastAPI()
app.include_router(create_tus_router(prefix="files", files_dir=os.environ["TUS_FOLDER"]))
