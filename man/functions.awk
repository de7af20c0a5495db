# Makes the pages of section 3 from graphdriver.h: one for each function, and graphdriver.3 for what is common to them.
#     awk -v out=DIRECTORY -v version=VERSION -f functions.awk graphdriver.h

# What roff would take for its own.
function plain(text)
{
    gsub(/\\/, "\\e", text)
    gsub(/-/, "\\-", text)
    gsub(/`/, "", text)
    gsub(/…/, "...", text)
    if (text ~ /^[.']/)
        text = "\\&" text
    return text
}

function put(text) { print text > page }

function begin_page(name, what)
{
    page = out "/" name ".3"
    put(".\\\" Made from graphdriver.h.")
    put(".TH " toupper(name) " 3 \"\" \"libgraphdriver " version "\" \"Library Functions Manual\"")
    put(".SH NAME")
    put(name " \\- " plain(what))
    put(".SH LIBRARY")
    put("Container image layers and root filesystems (libgraphdriver, \\-lgraphdriver)")
}

function see_also(others)
{
    put(".SH SEE ALSO")
    put(others)
}

# Adds a line to the paragraph or item that is being read.
function take(text)
{
    if (text == "")
        place = place == "first" && part["first"] == "" ? "first" : "rest"
    if (text == "" && part[place] != "" && place == "rest")
        part[place] = part[place] "\n.PP"
    else if (text != "")
        part[place] = part[place] (part[place] == "" ? "" : "\n") plain(text)
}

# From "errno:" or "errno as for" on, the text is about errors; what follows in a paragraph of its own is not.
function split_errors(    at, end)
{
    at = match(part["rest"], /errno(:| as for)/)
    if (!at)
        return
    part["errors"] = substr(part["rest"], at)
    part["rest"] = substr(part["rest"], 1, at - 1)
    if ((end = index(part["errors"], "\n.PP"))) {
        part["rest"] = part["rest"] substr(part["errors"], end + 1)
        part["errors"] = substr(part["errors"], 1, end - 1)
    }
    sub(/(\n\.PP)?\n*$/, "", part["rest"])
    sub(/ +$/, "", part["rest"])
    sub(/^errno: /, "", part["errors"])
    sub(/^errno as/, "As", part["errors"])
}

function mentioned(    text, name, seen, list)
{
    text = part["first"] " " part["rest"] " " part["errors"] " " part["return"] " " arguments
    list = ".BR graphdriver (3),\n.BR graphdriver (7)"
    while (match(text, /graphdriver_[a-z_]+/)) {
        name = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        if (name in functions && name != function_name && !(name in seen)) {
            seen[name]
            list = list ",\n.BR " name " (3)"
        }
    }
    return list
}

function function_page(prototype,    sentence, first)
{
    match(prototype, /[a-z_]+\(/)
    function_name = substr(prototype, RSTART, RLENGTH - 1)
    sentence = whole
    sub(/([:;.]|, such as) .*/, "", sentence)
    sub(/\.$/, "", sentence)
    begin_page(function_name, tolower(substr(sentence, 1, 1)) substr(sentence, 2))
    put(".SH SYNOPSIS\n.nf\n.B #include <graphdriver.h>\n.PP")
    prototype = plain(prototype)
    gsub(/\n/, "\"\n.B \"", prototype)
    put(".B \"" prototype "\"\n.fi")
    split_errors()
    put(".SH DESCRIPTION\n" part["first"])
    sub(/\n$/, "", arguments)
    if (arguments != "")
        put(arguments)
    if (part["rest"] != "")
        put(".PP\n" part["rest"])
    if (part["return"] != "")
        put(".SH RETURN VALUE\n" part["return"])
    if (part["errors"] != "")
        put(".SH ERRORS\n" part["errors"])
    see_also(mentioned())
    close(page)
    list_of_functions = list_of_functions ".TP\n.BR " function_name " (3)\n" plain(sentence) "\n"
}

function reset()
{
    delete part
    part["first"] = part["rest"] = part["return"] = part["errors"] = ""
    arguments = whole = prototype = ""
    place = "first"
}

# The names of all functions come first, so that pages can point at each other.
BEGIN {
    while ((getline line < ARGV[1]) > 0)
        if (match(line, /^[a-z].*graphdriver_[a-z_]+\(|^[a-z].* free_[a-z_]+\(/) && line !~ /^typedef/) {
            match(line, /[a-z_]+\(/)
            functions[substr(line, RSTART, RLENGTH - 1)]
        }
    close(ARGV[1])
    reset()
    state = "introduction"
}

state == "introduction" {
    if (/^ \*\//)
        state = "types"
    else if (/^ \* Generated/)
        skip = 1 # and the empty line after it
    else if (/^ \*/ && skip-- <= 0) {
        sub(/^ \* ?/, "")
        introduction = introduction ($0 == "" ? ".PP" : plain($0)) "\n"
    }
    next
}

# What stands between the includes and the functions is shown as it is, without the lines for the preprocessor.
state == "types" && /^#ifdef __cplusplus/ { state = "functions" }
state == "types" && (!/^#/ || /^#define GRAPHDRIVER_[A-Z]+ [0-9]/) && !/^    !defined/ { types = types plain($0) "\n" }

state == "functions" && /^\/\// {
    sub(/^\/\/ ?/, "")
    if (match($0, /^@param +[a-z_]+ +/)) {
        split($0, words)
        arguments = arguments ".TP\n.I " words[2] "\n" plain(substr($0, RLENGTH + 1)) "\n"
        place = "argument"
    } else if (sub(/^@return /, "")) {
        place = "return"
        take($0)
    } else {
        sub(/^ +/, "")
        if (place == "first" && $0 != "")
            whole = whole (whole == "" ? "" : " ") $0
        if (place == "argument" && $0 != "")
            arguments = arguments plain($0) "\n"
        else
            take($0)
    }
    next
}

state == "functions" && /^[a-z ]/ && !/^extern "C"/ {
    prototype = prototype (prototype == "" ? "" : "\n") $0
    if (/;$/) {
        function_page(prototype)
        reset()
    }
    next
}

END {
    begin_page("graphdriver", "container image layers and root filesystems")
    put(".SH SYNOPSIS\n.nf\n.B #include <graphdriver.h>\n.fi")
    sub(/^[^\n]*\n(\.PP\n)?/, "", introduction)
    sub(/\n$/, "", introduction)
    sub(/\n$/, "", list_of_functions)
    put(".SH DESCRIPTION\n" introduction)
    put(".SS Functions\n" list_of_functions)
    put(".SS Types and constants\n.nf\n" types ".fi")
    see_also(".BR graphdriver (7)")
}
