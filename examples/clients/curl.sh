#!/usr/bin/env bash
# The whole way with curl and jq: upload, train, wait, ask. Run it from the examples folder.
#   LORAMILL_URL      where the API is, http://127.0.0.1:8000 when unset
#   LORAMILL_API_KEY  its key, where it wants one
set -euo pipefail
url=${LORAMILL_URL:-http://127.0.0.1:8000}
call() { curl --silent --show-error --fail-with-body --header "Authorization: Bearer ${LORAMILL_API_KEY:-unused}" "$@"; }

file=$(call "$url/v1/files" --form purpose=fine-tune --form file=@train.jsonl | jq --raw-output .id)
job=$(jq --arg file "$file" '. + {training_file: $file}' job.json |
  call "$url/v1/fine_tuning/jobs" --header 'Content-Type: application/json' --data @- | jq --raw-output .id)
echo "job $job"

while :; do
  state=$(call "$url/v1/fine_tuning/jobs/$job")
  status=$(jq --raw-output .status <<<"$state")
  case $status in
    succeeded) break ;;
    failed | cancelled) jq .error <<<"$state" >&2; exit 1 ;;
    *) sleep 5 ;;
  esac
done
model=$(jq --raw-output .fine_tuned_model <<<"$state")
echo "model $model"

head -n 1 heldout.jsonl | jq --arg model "$model" '{model: $model, prompt: .prompt, max_tokens: 64, temperature: 0}' |
  call "$url/v1/completions" --header 'Content-Type: application/json' --data @- | jq --raw-output '.choices[0].text'
