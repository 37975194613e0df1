#!/usr/bin/env bash
# Runs lmms-eval on the embedded model, with and without a reduction, in an environment of its own (`.venv` beside this
# file, or VENV), and holds every answer against the library itself. Needs Python, pip and no hub. The first run takes
# some minutes, most of them for packages.
#   PYTHON, TORCH, LMMS_EVAL, VENV   may be set
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${VENV:-$here/.venv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" TOKENIZERS_PARALLELISM=false

if [ ! -e "$venv/.installed" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    install() { "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
    install "${TORCH:-torch==2.13.0}" # first, so that nothing pulls a second build of it
    install "${LMMS_EVAL:-lmms-eval==0.7.3}" "filelock<4" "transformers>=5.18,<6" # 0.7.3 reads a private part of filelock 3
    # a torchvision built for another torch cannot be imported, and neither can transformers beside it
    "$venv/bin/python" -c "import torchvision" 2>/dev/null || "$venv/bin/pip" uninstall --quiet --yes torchvision
    touch "$venv/.installed"
fi
# not editable: what a user has, with its entry points; from a copy, as building leaves files behind
mkdir "$work/source"
cp -r "$root"/{pyproject.toml,README.md,LICENSE,NOTICE,src} "$work/source"
"$venv/bin/pip" uninstall --quiet --yes tessella 2>/dev/null || true
"$venv/bin/pip" install --quiet --disable-pip-version-check "$work/source"

"$venv/bin/python" - <<'CHECK'
from importlib.metadata import entry_points
from tessella.core.registry import methods
found = entry_points(group="lmms_eval.models")
assert "tessella" in found.names, f"entry points of lmms_eval.models: {list(found.names)}"
assert len(methods()) > 40, len(methods())
CHECK

"$venv/bin/python" "$here/world.py" "$work/tasks"
evaluate() { # FOLDER PIPELINE OPTIONS...
    local records=$1 pipeline=$2
    shift 2
    "$venv/bin/lmms-eval" --model tessella --include_path "$work/tasks" --output_path "$records" --log_samples \
        --model_args "pretrained=mini,pipeline=$pipeline,device=cpu,max_num_frames=4" --batch_size 8 "$@" \
        >"$work/log" 2>&1 || true
    # lmms-eval ends with 0 after an error too
    find "$records" -name "*_results.json" 2>/dev/null | grep -q . || { tail -n 40 "$work/log"; exit 1; }
}
for pipeline in none hiprune:1/4 "divprune:0.5 | fastv@2:0.5"; do
    records="$work/records/${pipeline//[^a-z0-9]/-}"
    evaluate "$records/written" "$pipeline" --tasks tessella_world,tessella_clips
    evaluate "$records/weighed" "$pipeline" --tasks tessella_weighed --force_simple
    "$venv/bin/python" "$here/compare.py" "$work/tasks" "$records" "$pipeline"
done
