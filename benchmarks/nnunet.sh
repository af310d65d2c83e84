#!/bin/sh
# nnU-Net, whose own predictor ours is measured beside, in an environment of its own that borrows torch and all else that it
# shares with the project's (PROJECT_HOME, default .venv): nothing of it is needed at run time, nothing of the project's changes.
# NNUNET_HOME (default .peers/nnunet) says where.
set -eu
home=${NNUNET_HOME:-.peers/nnunet}
project=${PROJECT_HOME:-.venv}
python=$(readlink -f "$project/bin/python")
"$python" -m venv "$home"
shared=$("$project/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$shared" > "$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
"$home/bin/pip" install --quiet --no-deps nnunetv2 acvl-utils batchgenerators batchgeneratorsv2 dynamic-network-architectures \
    blosc2 ndindex numexpr threadpoolctl tqdm joblib scikit-learn nibabel pandas seaborn einops 'timm<1.0.23' \
    'huggingface_hub<1' requests urllib3 certifi charset-normalizer idna filelock httpx httpcore h11 anyio sniffio
"$home/bin/python" -c 'import nnunetv2.inference.predict_from_raw_data'
"$home/bin/pip" freeze --exclude-editable | grep -i '^nnunetv2=='
