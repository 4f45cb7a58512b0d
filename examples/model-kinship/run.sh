#!/usr/bin/env bash
# Model kinship (arXiv:2410.12613), small: for each seed three fine-tunes of one tiny base are merged generation by
# generation, and what was expected is printed beside what was seen. About a minute and a half a seed on two cores.
#
#   examples/model-kinship/run.sh [--seeds "0 1 2"] [--generations 5] [--work FOLDER]
#
# Uses only `needletail` (from .build/release, or $NEEDLETAIL) and awk. README.md beside this says what is expected, and
# was written before the first run of these seeds. Exits 0 whichever way the checks fall, and with the failing command's
# status when one fails.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
needletail=${NEEDLETAIL:-$here/../../.build/release/needletail}
seeds="0 1 2" generations=5 work=
while [ $# -gt 0 ]; do
    case $1 in
    --seeds) seeds=$2; shift 2 ;;
    --generations) generations=$2; shift 2 ;;
    --work) work=$2; shift 2 ;;
    *) echo "unknown option $1; --seeds, --generations and --work are known" >&2; exit 64 ;;
    esac
done
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
tasks="add reverse sort"

# Rows of one seed are judged, rows of others are trained on: none is in both but by chance.
make_rows() { # seed folder
    local task
    for task in $tasks; do
        "$needletail" data reasoning --task $task --rows 6000 --seed "$1" --output "$2/$task.jsonl"
        "$needletail" data reasoning --task $task --rows 2000 --seed $(($1 + 1000)) --output "$2/$task-more.jsonl"
        "$needletail" data reasoning --task $task --rows 300 --seed $(($1 + 2000)) --output "$2/$task-judge.jsonl"
    done
    cat "$2"/{add,reverse,sort}-more.jsonl >"$2/mixed.jsonl"
}

train() { # model output seed steps rate rows key=value...
    local model=$1 output=$2 seed=$3 steps=$4 rate=$5
    shift 5
    [ -f "$output/summary.json" ] || "$needletail" finetune "$model" "$@" --method full --output "$output" \
        model.dtype=fp32 training.steps="$steps" training.batch_rows=24 training.seed="$seed" \
        training.log_every=100 optimizer.learning_rate="$rate" schedule.name=cosine schedule.warmup_steps=20 threads=1
}

# A base that knows a little of every task, and three models that each learned one of them further.
make_models() { # seed folder
    local task
    [ -d "$2/tiny" ] || "$needletail" data tiny-model "$2/tiny" --layers 4 --width 64 --heads 4
    train "$2/tiny" "$2/base" "$1" 800 3e-3 "$2/mixed.jsonl" model.initialize=random
    for task in $tasks; do train "$2/base/model" "$2/$task" "$1" 400 1e-3 "$2/$task.jsonl"; done
}

family() { # folder name key=value...
    local folder=$1 name=$2
    shift 2
    cat >"$folder/$name.yaml" <<YAML
recipe: evolve
base: $folder/base/model
foundations: [$folder/add/model, $folder/reverse/model, $folder/sort/model]
evaluate:
  tasks:
    - {name: add, data: $folder/add-judge.jsonl}
    - {name: reverse, data: $folder/reverse-judge.jsonl}
    - {name: sort, data: $folder/sort-judge.jsonl}
max_generations: $generations
early_stop: {patience: null}
dtype: fp32
threads: 1
output: $folder/$name
YAML
    "$needletail" evolve "$folder/$name.yaml" "$@" >"$folder/$name.json"
}

# The weights of two task vectors (add, reverse), looked for by CMA-ES, on a grid, and at random: 25 merges each.
search() { # seed folder
    local folder=$2 a b
    family "$folder" cma "foundations=[$folder/add/model, $folder/reverse/model]" search=cma_es \
        merge.method=task_arithmetic cma.max_fevals=25 max_generations=6 early_stop.patience=2 seed="$1" \
        "evaluate.tasks=[{name: add, data: $folder/add-judge.jsonl}, {name: reverse, data: $folder/reverse-judge.jsonl}]"
    for a in 0 0.3 0.6 0.9 1.2; do
        for b in 0 0.3 0.6 0.9 1.2; do worth "$folder" $a $b; done
    done >"$folder/grid.txt"
    awk -v seed="$1" 'BEGIN {
        x = 2 * seed + 1 # Lehmer 1951: the same numbers on every machine
        for (i = 0; i < 55; i++) {
            x = (x * 16807) % 2147483647
            if (i >= 5) printf "%.4f%s", 1.2 * x / 2147483647, i % 2 ? " " : "\n"
        }
    }' \
        | while read -r a b; do worth "$folder" "$a" "$b"; done >"$folder/random.txt"
}

worth() { # folder weight weight: the two weights and the mean score of the merge
    local task
    printf 'merge_method: task_arithmetic\nbase_model: %s/base/model\ndtype: float32\nmodels:\n' "$1" >"$1/try.yaml"
    printf '  - {model: %s, parameters: {weight: %s}}\n' "$1/add/model" "$2" "$1/reverse/model" "$3" >>"$1/try.yaml"
    rm -rf "$1/try"
    "$needletail" merge "$1/try.yaml" "$1/try" 2>"$1/try.log" || { cat "$1/try.log" >&2; exit 1; }
    for task in add reverse; do "$needletail" eval "$1/try" "$1/$task-judge.jsonl" --dtype fp32 --json; done \
        | sed 's/.*"loss":\([^,}]*\).*/\1/' | awk -v a="$2" -v b="$3" '{ s += 50 * exp(-$1) } END { print a, b, s }'
}

# Lines "row|check|expected|seen|holds" for one seed, from the three families' tables and the search.
judge() { # folder
    local shuffled cma grid random
    cma=$(sed 's/.*"objective":\([^,}]*\).*/\1/' "$1/cma.json")
    grid=$(sort -k3 -n "$1/grid.txt" | tail -n 1)
    random=$(sort -k3 -n "$1/random.txt" | tail -n 1)
    shuffled=$(sed 's/.*"shuffled_below_half":\([^,}]*\).*/\1/' "$1/greedy.json")
    awk -F, -v shuffled="$shuffled" -v cma="$cma" -v grid="${grid##* }" -v random="${random##* }" '
        function say(row, check, expected, seen, holds) { print row "|" check "|" expected "|" seen "|" (holds ? "yes" : "NO") }
        function abs(x) { return x < 0 ? -x : x }
        FNR == 1 {
            n = split(FILENAME, part, "/"); run = part[n - 1]; isModels = part[n] == "models.csv"
            for (i = 1; i <= NF; i++) column[$i] = i
            next
        }
        isModels && $column["generation"] > 0 {
            g = $column["generation"]; k = $column["kinship_pcc"]; gain = $column["gain"]
            if (run == "greedy") { N++; K[N] = k; G[N] = abs(gain) }
            if ($column["is_exploration"] == "true") { exploreK[run, g] = k; exploreG[run, g] = gain }
            else {
                count[run, g]++; sum[run, g] += gain
                if (!((run, g) in lowest) || k < lowest[run, g]) lowest[run, g] = k
                if (g == 1) foundations += k / 3
            }
            if (!(run in best) || $column["average"] > best[run]) best[run] = $column["average"]
            if (g > last[run]) last[run] = g
        }
        !isModels { topKinship[run, $column["generation"]] = $column["top_kinship_pcc"] }
        END {
            foundations /= 3 # the three families have the same first generation
            say(8, "PCC of the three fine-tunes, mean", "< 0.5", sprintf("%.3f", foundations), foundations < 0.5)
            first = topKinship["greedy", 1]; g = last["greedy"] < 4 ? last["greedy"] : 4; fourth = topKinship["greedy", g]
            say(8, "mean PCC of the best three, generation 1", "< 0.8", sprintf("%.3f", first), first < 0.8)
            say(8, "the same, generation 4", "> 0.95", sprintf("%.3f%s", fourth, g < 4 ? " (ended in " g ")" : ""), g == 4 && fourth > 0.95)
            for (i = 1; i <= N; i++) { mk += K[i] / N; mg += G[i] / N }
            for (i = 1; i <= N; i++) { kk += (K[i] - mk) ^ 2; gg += (G[i] - mg) ^ 2; kg += (K[i] - mk) * (G[i] - mg) }
            r = kg / sqrt(kk * gg)
            say(8, "correlation of PCC and abs(gain), merges", "< -0.5, >= 12", sprintf("%.3f, %d", r, N), r < -0.5 && N >= 12)
            say(8, "control, gains shuffled: share of abs(r) < 0.5", ">= 0.95", shuffled, shuffled >= 0.95)
            below = 0; above = 0; seen = ""; gains = ""; rounds = 0; steps = 0
            for (g = 2; g <= last["kinship"]; g++) if (("kinship", g) in exploreK && count["kinship", g]) {
                rounds++; below += exploreK["kinship", g] < lowest["kinship", g]
                seen = seen sprintf("%s%.2f/%.2f", seen == "" ? "" : " ", exploreK["kinship", g], lowest["kinship", g])
            }
            say(9, "PCC of the exploration / lowest of its siblings", "below, in each generation", seen, rounds > 0 && below == rounds)
            for (g = 3; g <= last["kinship"]; g++) if (("kinship", g) in exploreG && count["kinship", g]) {
                steps++; mean = sum["kinship", g] / count["kinship", g]; above += exploreG["kinship", g] > mean
                gains = gains sprintf("%s%+.2f/%+.2f", gains == "" ? "" : " ", exploreG["kinship", g], mean)
            }
            say(9, "gain of the exploration / mean of its siblings, from generation 3", "above in 2 of 3", gains, steps >= 2 && 3 * above >= 2 * steps)
            say(9, "best mean score, exploring / greedy", "within 1 point", sprintf("%.2f/%.2f", best["kinship"], best["greedy"]), best["kinship"] >= best["greedy"] - 1)
            seen = ""; a = 0; b = 0; steps = 0
            for (g = 3; g <= last["highest"]; g++) if (("highest", g) in exploreG && count["highest", g]) {
                steps++; a += exploreG["highest", g]; b += sum["highest", g] / count["highest", g]
            }
            if (steps) seen = sprintf("%+.2f/%+.2f", a / steps, b / steps)
            say(9, "control, the most related partner: mean gain / its siblings", "no larger", seen, steps > 0 && a <= b)
            say(16, "weights of two experts, mean score of CMA-ES / of the best of a grid, 25 merges each", "at least the grid - 0.5", sprintf("%.2f/%.2f", cma / 2, grid), cma / 2 >= grid - 0.5)
            say(16, "control, the best of 25 random weights", "below CMA-ES", sprintf("%.2f", random), random < cma / 2)
        }' "$1"/{greedy,kinship,highest}/models.csv "$1"/{greedy,kinship,highest}/generations.csv
}

began=$SECONDS
for seed in $seeds; do
    echo "== seed $seed" >&2
    folder=$work/seed-$seed
    mkdir -p "$folder"
    make_rows "$seed" "$folder"
    make_models "$seed" "$folder"
    family "$folder" greedy strategy=greedy
    family "$folder" kinship strategy=kinship
    family "$folder" highest strategy=kinship explore=highest
    rm -f "$folder/best.svg"
    "$needletail" evolve plot "$folder"/{greedy,kinship,highest} --output "$folder/best.svg" >"$folder/best.txt"
    search "$seed" "$folder"
    judge "$folder" >"$folder/checks"
done

"$here/../table-over-seeds" "$work" $seeds >"$work/table.md"
cat "$work/table.md"
echo "took $((SECONDS - began)) s" >&2
