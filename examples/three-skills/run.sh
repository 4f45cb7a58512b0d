#!/usr/bin/env bash
# Three skills in one model: the real SmolLM2-135M is fine-tuned with LoRA on three kinds of rows, the three are merged by
# five methods, every model is judged on held-out rows of all three, and the models' kinship and family tree are drawn.
#
#   examples/three-skills/run.sh [--rows 1500] [--held-out 200] [--work FOLDER]
#
# Uses `needletail` (from .build/release, or $NEEDLETAIL), scripts/fetch-assets, awk, sed and shuf. README.md beside this says
# what is expected. The folder (about 4 GB) is runs/three-skills; what is finished there is not done again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
needletail=${NEEDLETAIL:-$root/.build/release/needletail}
rows=1500 held=200 work=$root/runs/three-skills
while [ $# -gt 0 ]; do
    case $1 in
    --rows) rows=$2; shift 2 ;;
    --held-out) held=$2; shift 2 ;;
    --work) work=$2; shift 2 ;;
    *) echo "unknown option $1; --rows, --held-out and --work are known" >&2; exit 64 ;;
    esac
done
"$root/scripts/fetch-assets" smollm2 sarcasm quartz food
mkdir -p "$work"
work=$(cd "$work" && pwd)
assets=$root/.deps/demo
skills="sarcasm quartz food"
began=$SECONDS

labels() { # skill: what its rows answer
    case $1 in sarcasm) echo 0 1 ;; quartz) echo A B ;; food) echo Yes No ;; esac
}

# Rows in an order that the file itself decides: the first are held out, the next judge the family as it is bred, the
# rest is trained on.
make_rows() { # skill
    shuf --random-source="$assets/$1.jsonl" "$assets/$1.jsonl" >"$work/$1-all.jsonl"
    awk -v held="$held" -v rows="$rows" -v stem="$work/$1" '
        NR <= held { print > (stem "-held-out.jsonl"); next }
        NR <= held + 100 { print > (stem "-breed.jsonl"); next }
        NR <= held + 100 + rows { print > (stem "-train.jsonl") }' "$work/$1-all.jsonl"
}

train() { # skill
    [ -f "$work/$1/summary.json" ] || "$needletail" finetune "$work/base" "$work/$1-train.jsonl" --method lora \
        --output "$work/$1" adapter.rank=16 adapter.alpha=32 optimizer.learning_rate=5e-4 schedule.name=cosine \
        schedule.warmup_ratio=0.05 training.steps=94 training.batch_rows=16 training.eval_every=47 training.log_every=10
}

# A mergekit file of the three adapters on their base. $1 method, $2 settings of each model, $3 more lines
merge() {
    local skill config=$work/$1.yaml
    [ -d "$work/merged-$1" ] && return
    {
        echo "merge_method: $1"
        [ "$1" = linear ] || echo "base_model: $work/base"
        echo "models:"
        for skill in $skills; do
            echo "  - {model: \"$work/base+$work/$skill/adapter\", parameters: {$2}}"
        done
        printf '%b' "$3"
        echo "dtype: float32"
    } >"$config"
    "$needletail" merge "$config" "$work/merged-$1"
}

judge() { # name model
    local skill choices label
    for skill in $skills; do
        [ -s "$work/judged/$1-$skill.json" ] && continue
        choices=()
        for label in $(labels "$skill"); do choices+=(--choice "$label"); done
        "$needletail" eval "$2" "$work/$skill-held-out.jsonl" "${choices[@]}" --json >"$work/judged/partial"
        mv "$work/judged/partial" "$work/judged/$1-$skill.json"
    done
}

[ -d "$work/base" ] || "$needletail" convert "$assets/SmolLM2-135M-Instruct.Q4_1.gguf" "$work/base"
for skill in $skills; do
    make_rows "$skill"
    train "$skill"
done
merge linear "weight: 1" ""
merge task_arithmetic "weight: 0.6" ""
merge ties "weight: 1, density: 0.5" ""
merge dare_ties "weight: 0.6, density: 0.5" ""
merge sce "" "parameters: {select_topk: 0.5}\n"

mkdir -p "$work/judged"
models="base $skills merged-linear merged-task_arithmetic merged-ties merged-dare_ties merged-sce"
for name in $models; do judge "$name" "$work/$name"; done

# Kinship of the three, and a family of slerp merges bred by score.
[ -d "$work/kinship" ] || "$needletail" kinship "$work"/{sarcasm,quartz,food}/adapter --base "$work/base" --by layer \
    --output "$work/kinship"
cat >"$work/family.yaml" <<YAML
recipe: evolve
base: $work/base
foundations: [$work/sarcasm/adapter, $work/quartz/adapter, $work/food/adapter]
evaluate:
  tasks:
    - {name: sarcasm, data: $work/sarcasm-breed.jsonl, choice: ["0", "1"]}
    - {name: quartz, data: $work/quartz-breed.jsonl, choice: [A, B]}
    - {name: food, data: $work/food-breed.jsonl, choice: ["Yes", "No"]}
strategy: kinship
max_generations: 2
keep: top_k
output: $work/family
YAML
"$needletail" evolve "$work/family.yaml" >"$work/family.json"
bred=$(sed 's/.*"folder":"\([^"]*\)".*/\1/' "$work/family.json")
judge bred "$bred"

# What always giving the held-out rows' most frequent label would score.
frequent() { # skill
    sed 's/.*"ideal": *"\([^"]*\)".*/\1/' "$work/$1-held-out.jsonl" | sort | uniq -c | sort -rn \
        | awk -v held="$held" 'NR == 1 { print $1 / held }'
}
figure() { sed 's/.*"accuracy":\([^,}]*\).*/\1/' "$work/judged/$1-$2.json"; }
{
    echo "| model | sarcasm | quartz | food | mean |"
    echo "| --- | --- | --- | --- | --- |"
    {
        echo "most-frequent-label $(frequent sarcasm) $(frequent quartz) $(frequent food)"
        for name in $models bred; do
            echo "$name $(figure "$name" sarcasm) $(figure "$name" quartz) $(figure "$name" food)"
        done
    } | awk '{ printf "| %s | %.1f | %.1f | %.1f | %.1f |\n", $1, 100 * $2, 100 * $3, 100 * $4, 100 * ($2 + $3 + $4) / 3 }'
} >"$work/table.md"
cat "$work/table.md"
echo "kinship matrix $work/kinship/kinship-pcc.svg, family tree $work/family/plots/family-tree.svg; took $((SECONDS - began)) s" >&2
