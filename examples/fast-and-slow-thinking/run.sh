#!/usr/bin/env bash
# Fast and slow thinking in layer gradients (arXiv:2410.23743), small: trains a tiny model from scratch for each seed,
# measures it, and prints what was expected beside what was seen. About three minutes a seed on two cores.
#
#   examples/fast-and-slow-thinking/run.sh [--seeds "0 1 2"] [--steps 2000] [--work FOLDER]
#
# Uses only `needletail` (from .build/release, or $NEEDLETAIL) and awk. README.md beside this says what is expected, and
# was written before the first run. Exits 0 whichever way the checks fall, and with the failing command's status when
# one fails.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
needletail=${NEEDLETAIL:-$here/../../.build/release/needletail}
seeds="0 1 2" steps=2000 work=
while [ $# -gt 0 ]; do
    case $1 in
    --seeds) seeds=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    --work) work=$2; shift 2 ;;
    *) echo "unknown option $1; --seeds, --steps and --work are known" >&2; exit 64 ;;
    esac
done
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
table=$work/table.md
: >"$work/checks"

# Rows that no training has seen: their seed is another one, and facts of `unseen-facts` are in no list of theirs.
make_rows() { # seed folder
    local seed=$1 to=$2 style words
    local fresh=$((seed + 1000))
    "$needletail" data reasoning --task mixture --rows 24000 --seed "$seed" --output "$to/train.jsonl"
    for style in none simplified detailed; do
        "$needletail" data reasoning --task sums --style $style --rows 100 --seed $fresh --output "$to/$style.jsonl"
    done
    for words in 5 10; do
        "$needletail" data reasoning --task sums --style none --filler $words --rows 100 --seed $fresh \
            --output "$to/filler$words.jsonl"
    done
    for words in 2 4 8; do
        "$needletail" data reasoning --task unseen-facts --words $words --rows 100 --seed "$seed" \
            --output "$to/unseen$words.jsonl"
    done
    "$needletail" data reasoning --task facts --rows 24 --seed "$seed" --output "$to/memorised.jsonl"
}

train() { # seed folder
    "$needletail" finetune "$2/tiny" "$2/train.jsonl" --method full --output "$2/run" \
        model.initialize=random model.dtype=fp32 data.train_on=all data.validation_rows=100 \
        training.steps="$steps" training.batch_rows=12 training.seed="$1" training.log_every=100 \
        optimizer.learning_rate=3e-3 schedule.name=cosine schedule.warmup_steps=100 threads=1
}

measure() { # seed folder
    local sets=("$2"/{simplified,detailed,filler5,filler10,unseen2,unseen4,unseen8,memorised}.jsonl) set
    local compare=()
    for set in "${sets[@]}"; do compare+=(--compare "$set"); done
    "$needletail" analyze gradients --model "$2/run/model" --data "$2/none.jsonl" "${compare[@]}" --irrelevant shuffle \
        --seed "$1" --threads 1 --output "$2/trained" >"$2/trained.txt"
    local styles=(--data "$2/none.jsonl" --compare "$2/simplified.jsonl" --compare "$2/detailed.jsonl")
    # Controls: the same model before training, and "irrelevant" responses that are the correct ones.
    "$needletail" analyze gradients --model "$2/tiny" --initialize random "${styles[@]}" --seed "$1" --threads 1 \
        --output "$2/untrained" >"$2/untrained.txt"
    "$needletail" analyze gradients --model "$2/run/model" "${styles[@]}" --allow-equal \
        --irrelevant "$2/none.jsonl" --irrelevant "$2/simplified.jsonl" --irrelevant "$2/detailed.jsonl" \
        --limit 20 --threads 1 --output "$2/itself" >"$2/itself.txt"
}

# Reads the three summaries and writes lines "row|check|expected|seen|holds" for one seed.
judge() { # folder
    awk -F, '
        FNR == 1 { file = FILENAME; sub(/\/summary.csv$/, "", file); sub(/.*\//, "", file)
                   for (i = 1; i <= NF; i++) column[$i] = i; next }
        { key = file SUBSEP $column["data"] SUBSEP $column["response"] SUBSEP $column["matrix"]
          s[key] = $column["mean"]; mad[key] = $column["mad"]; rd[key] = $column["rd_absolute"] }
        function S(f, d, m) { return s[f, d, "correct", m] }
        function M(f, d, m) { return mad[f, d, "correct", m] }
        function ratios(kind, f, a, b,   i, r, text) { # low and high over the projections
            low = 1e30; high = 0; text = ""
            for (i = 1; i <= 4; i++) {
                r = kind == "s" ? S(f, a, p[i]) / S(f, b, p[i]) : M(f, a, p[i]) / M(f, b, p[i])
                if (r < low) low = r; if (r > high) high = r
                text = text (i > 1 ? " " : "") sprintf("%.2f", r)
            }
            return text
        }
        function RD(f, d,   i, sum) { for (i = 1; i <= 4; i++) sum += rd[f, d, "irrelevant", p[i]]; return sum / 4 }
        function say(row, check, expected, seen, holds) { print row "|" check "|" expected "|" seen "|" (holds ? "yes" : "NO") }
        END {
            split("q k v o", p, " ")
            t = ratios("s", "trained", "none", "simplified"); say(10, "mean s, none / simplified, q k v o", "> 1.5 each", t, low > 1.5)
            t = ratios("s", "trained", "simplified", "detailed"); say(10, "mean s, simplified / detailed, q k v o", "> 1.5 each", t, low > 1.5)
            t = ratios("s", "untrained", "none", "detailed"); say(10, "control, untrained: mean s, none / detailed", "< 3 each", t, high < 3)
            t = ratios("mad", "trained", "none", "simplified"); say(11, "MAD, none / simplified, q k v o", "> 1 each", t, low > 1)
            t = ratios("mad", "trained", "simplified", "detailed"); say(11, "MAD, simplified / detailed, q k v o", "> 1 each", t, low > 1)
            t = ratios("mad", "untrained", "none", "detailed"); say(11, "control, untrained: MAD, none / detailed", "< 3 each", t, high < 3)
            none = RD("trained", "none"); simple = RD("trained", "simplified"); detailed = RD("trained", "detailed")
            say(12, "RD, none", "< 0.2", sprintf("%.3f", none), none < 0.2)
            say(12, "RD, simplified", "> 0.5", sprintf("%.3f", simple), simple > 0.5)
            say(12, "RD, detailed", "> simplified", sprintf("%.3f", detailed), detailed > simple)
            zero = RD("itself", "none") + RD("itself", "simplified") + RD("itself", "detailed")
            say(12, "control, identical text: RD", "= 0", sprintf("%.3g", zero), zero == 0)
            a = S("trained", "none", "q"); b = S("trained", "filler5", "q"); c = S("trained", "filler10", "q"); d = S("trained", "detailed", "q")
            say(13, "s_q: none, with 5, with 10 filler words", "not smaller than none", sprintf("%.2f %.2f %.2f", a, b, c), b >= a && c >= a)
            say(13, "control, real detailed reasoning: s_q", "smaller than none", sprintf("%.2f", d), d < a)
            a = S("trained", "unseen2", "q"); b = S("trained", "unseen4", "q"); c = S("trained", "unseen8", "q"); m = (a + b + c) / 3
            low = a < b ? a : b; if (c < low) low = c
            high = a > b ? a : b; if (c > high) high = c
            say(14, "s_q of unseen facts of 2, 4, 8 words, largest / smallest", "<= 1.3", sprintf("%.2f", high / low), high / low <= 1.3)
            far = high / m - 1; if (1 - low / m > far) far = 1 - low / m
            say(14, "the same, each beside their mean (not of the specification)", "within 30 %", sprintf("%.2f %.2f %.2f", a, b, c), far <= 0.3)
            x = RD("trained", "unseen2"); y = RD("trained", "unseen4"); z = RD("trained", "unseen8")
            say(14, "RD of unseen facts of 2, 4, 8 words", "< 0.1 each", sprintf("%.3f %.3f %.3f", x, y, z), x < 0.1 && y < 0.1 && z < 0.1)
            known = S("trained", "memorised", "q")
            say(14, "control, memorised facts: s_q unseen / memorised", ">= 3", sprintf("%.1f", low / known), low / known >= 3)
        }' "$1/trained/summary.csv" "$1/untrained/summary.csv" "$1/itself/summary.csv"
}

began=$SECONDS
for seed in $seeds; do
    echo "== seed $seed" >&2
    folder=$work/seed-$seed
    mkdir -p "$folder"
    [ -d "$folder/tiny" ] || "$needletail" data tiny-model "$folder/tiny"
    make_rows "$seed" "$folder"
    train "$seed" "$folder"
    measure "$seed" "$folder"
    judge "$folder" >"$folder/checks"
done

"$here/../table-over-seeds" "$work" $seeds >"$table"
cat "$table"
echo "took $((SECONDS - began)) s" >&2
