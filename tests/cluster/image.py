"""Packs static files into an image archive: image.py OUT.tar NAME:TAG ENTRYPOINT_JSON SOURCE=DESTINATION...

For the few images that only tests need. The project's own are built from its Dockerfiles.
"""
import hashlib
import io
import json
import sys
import tarfile

out, name, entrypoint, *files = sys.argv[1:]


def add(archive, path, data, mode=0o755):
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as archive:
    for pair in files:
        source, destination = pair.split("=", 1)
        with open(source, "rb") as file:
            add(archive, destination.lstrip("/"), file.read())
    tmp = tarfile.TarInfo("tmp")
    tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
    archive.addfile(tmp)
layer = layer.getvalue()

config = json.dumps({
    "architecture": "amd64",
    "os": "linux",
    "config": {"Entrypoint": json.loads(entrypoint), "Env": ["PATH=/bin"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
}).encode()
config_name = hashlib.sha256(config).hexdigest() + ".json"
manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
with tarfile.open(out, "w") as archive:
    add(archive, config_name, config)
    add(archive, "layer.tar", layer)
    add(archive, "manifest.json", manifest)
