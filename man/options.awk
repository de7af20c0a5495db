# Puts the tables of options that README.md has into graphdriver.7.in, in place of @OPTIONS@ and @OLD_OPTIONS@.
#     awk -v version=VERSION -f options.awk README.md graphdriver.7.in

function plain(text)
{
    gsub(/\\/, "\\e", text)
    gsub(/-/, "\\-", text)
    gsub(/`/, "", text)
    gsub(/…/, "...", text)
    # A link is its text.
    while (match(text, /\[[^]]*\]\([^)]*\)/)) {
        link = substr(text, RSTART, RLENGTH)
        sub(/\].*/, "", link)
        text = substr(text, 1, RSTART - 1) substr(link, 2) substr(text, RSTART + RLENGTH)
    }
    gsub(/^ +| +$/, "", text)
    return text
}

FILENAME == ARGV[1] && /^\| option \| default \|/ { table = "new" }
FILENAME == ARGV[1] && /^\| option \| what becomes/ { table = "old" }
FILENAME == ARGV[1] && !/^\|/ { table = "" }

table != "" && /^\| `/ {
    columns = split($0, column, "|")
    item = ".TP\n.B " plain(column[2]) "\n"
    if (table == "new") {
        item = item plain(column[4]) (column[3] ~ /[^ ]/ ? "\n(default: " plain(column[3]) ")" : "")
        new = new (new == "" ? "" : "\n") item
    } else
        old = old (old == "" ? "" : "\n") item plain(column[3])
}

FILENAME == ARGV[1] { next }
/^@OPTIONS@$/ { print new; next }
/^@OLD_OPTIONS@$/ { print old; next }
{ gsub(/@VERSION@/, version); print }
