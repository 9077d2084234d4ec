#!/bin/sh
# Check a certificate again: sh check.sh [MODEL], MODEL being the file that it is of. Needs coqc (8.16 or later) and the tools that every Unix has.
#
# 1. Files are those that consistency.json was written with, the library is that of this version of CryoPrism. They are
#    copied by name before anything looks at them; there is nothing in library/ and model/ beside them.
# 2. The model's files hold definitions and theorems, and no command that could take anything for granted.
# 3. Coq accepts them: it compiles all of them from their sources, and reads nothing else.
# 4. Each theorem states what its rule says (library/Claims.v), and rests on machine integers alone.
# 5. The theorems give the counts and the atoms of consistency.json; verdict, score, its deviation and the sentences
#    follow from these.
# 6. MODEL, if given, has the SHA-256 of consistency.json and, where python3 has gemmi, these atoms.
# What is not compared is told at the end.
# This file is the same in every certificate of a version.
set -eu
LC_ALL=C
export LC_ALL
unset CDPATH COQPATH
given=${1-}
case $given in
  "" | /*) ;;
  *) given=$(pwd)/$given ;;
esac
cd "$(dirname "$0")"
here=$(pwd)
library="@LIBRARY@"
library_sums="
@SUMS@
"
fixed_sums="check_data.py=@CHECK_DATA@ README.md=@README@ Makefile=@MAKEFILE@"
trusted_sum=@TRUSTED@
# Every rule with the weight of one of its obligations, its title and unit; each is asked or named as not asked.
rules="@RULES@"
reasons="@NOT_ASKED@"
# What may be said about a model, with # for numbers.
remarks="@REMARKS@"
model_files="Data Clashes Copies_of_model Local_rules"
# How every file of a rule begins.
beginning="@HEADER@"
axioms="PrimInt63.add PrimInt63.eqb PrimInt63.int PrimInt63.land PrimInt63.leb PrimInt63.lor PrimInt63.lsl
PrimInt63.lsr PrimInt63.ltb PrimInt63.mul PrimInt63.sub Uint63.add_spec Uint63.eqb_correct Uint63.eqb_refl
Uint63.land_spec Uint63.leb_spec Uint63.lor_spec Uint63.lsl_spec Uint63.lsr_spec Uint63.ltb_spec Uint63.mul_spec
Uint63.of_to_Z Uint63.sub_spec"
# All capitalised words that a model's file may hold: Coq's commands are capitalised too.
words="Block Bonds Chains Check Chirality Cis_peptides Clashes Completeness Copies D2 Definition E2 End Envelope Forall2
Grid Group In Ligands Local Module Numbering Op Placement Proof Qed Range Row Scale Some Stop Theorem Touch Z"

refuse() {
  printf 'Refused: %s\n' "$1" >&2
  exit 1
}
sum_of() {
  if command -v sha256sum >/dev/null; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi | cut -d ' ' -f 1
}
# consistency.json as lines: top ATOMS RESIDUES VERDICT, file NAME SUM, rule NAME ALL PROVED REFUTED UNKNOWN ATOMS, counts.
# silent NAME for what was not asked, model NAME, model_sha256 SUM, trusted LIST, word FIELD TEXT. Read line by line in the one form that CryoPrism writes: what is repeated or
# elsewhere would be read by some as this, by others as that.
claims_of() {
  awk -v file="$1" -v rules="$rules" -v reasons="$reasons" -v remarks="$remarks" '
    function wrong(what) { print "wrong " what; exit }
    function forward() { if ((getline line <file) <= 0) wrong("form: it ends early"); number++ }
    function odd() { wrong("form: line " number) }
    function same(text) { forward(); if (line != text) odd() }
    # Whether another follows: all but the last of its kind end in a comma.
    function goes_on(text) { forward(); if (line != text && line != text ",") odd(); return line == text "," }
    function told() { sub(/^ *"[^"]*": /, "", line); sub(/,$/, "", line); return line }
    function field(indent, key, pattern, comma) {
      forward()
      if (line !~ ("^" indent "\"" key "\": " pattern comma "$")) odd()
      return told()
    }
    function list(indent, key, item, comma, held, more) {
      forward()
      items = 0
      if (line == indent "\"" key "\": []" comma) return ""
      if (line != indent "\"" key "\": [") odd()
      held = ""
      do {
        forward()
        if (line !~ ("^" indent " " item ",?$")) odd()
        more = line ~ /,$/
        sub(/^ */, "", line); sub(/,$/, "", line)
        item_at[++items] = line
        held = held (held == "" ? "" : ",") line
      } while (more)
      same(indent "]" comma)
      return held
    }
    function words_under(indent, key, shape, kind, more, name) { # an object of words
      forward()
      if (line == indent "\"" key "\": {},") return
      if (line != indent "\"" key "\": {") odd()
      do {
        forward()
        if (line !~ ("^" indent " \"[A-Za-z0-9_./]+\": " shape ",?$")) odd()
        more = line ~ /,$/
        split(line, part, "\"")
        name = part[2]
        if ((kind, name) in seen) wrong(kind " " name)
        seen[kind, name] = 1
        if (kind == "file") print "file", name, part[4]
        else {
          print "silent", name
          if (name in reason_of && part[4] != reason_of[name]) wrong("reason why " name " is not asked")
        }
      } while (more)
      same(indent "},")
    }
    function bare(quoted) { return substr(quoted, 2, length(quoted) - 2) }
    function grouped(n, digits, more) { # 1234567 as 1,234,567
      digits = sprintf("%.0f", n)
      while (length(digits) > 3) {
        more = "," substr(digits, length(digits) - 2) more
        digits = substr(digits, 1, length(digits) - 3)
      }
      return digits more
    }
    function say(sentence) { said[++turns] = "\"" sentence "\"" }
    function root(square, side, turn) { # not every awk has sqrt
      side = square > 1 ? square : 1
      for (turn = 0; turn < 100; turn++) side = (side + square / side) / 2
      return side
    }
    function near(one, other) { return one - other <= 1e-9 && other - one <= 1e-9 }
    function numbers_of(indent) {
      n = field(indent, "obligations", whole, ",") + 0; p = field(indent, "proved", whole, ",") + 0
      r = field(indent, "refuted", whole, ",") + 0
    }
    BEGIN {
      text = "\"([^\"\\\\]|\\\\.)*\""; whole = "(0|[1-9][0-9]*)"
      number_form = "-?[0-9]+(\\.[0-9]+)?(e[-+]?[0-9]+)?"; measure = "(null|" number_form ")"
      sum = "\"[0-9a-f]+\""
      count = split(rules, part, ";")
      for (k = 1; k <= count; k++) {
        split(part[k], pair, "=")
        weight_of[pair[1]] = pair[2]; title_of[pair[1]] = pair[3]; unit_of[pair[1]] = pair[4]
      }
      count = split(reasons, part, ";")
      for (k = 1; k <= count; k++) { split(part[k], pair, "="); reason_of[pair[1]] = pair[2] }
      count = split(remarks, part, "|")
      for (k = 1; k <= count; k++) remark["\"" part[k] "\""] = 1
      same("{")
      field(" ", "schema", "\"cryoprism-consistency-1\"", ",")
      model = bare(field(" ", "model", text, ","))
      print "model", model
      print "model_sha256", bare(field(" ", "model_sha256", sum, ","))
      atoms = field(" ", "atoms", whole, ","); residues = field(" ", "residues", whole, ",")
      verdict = field(" ", "verdict", "\"(proved|refuted|unknown)\"", ","); gsub(/"/, "", verdict)
      print "top", atoms, residues, verdict
      same(" \"logic_score\": {")
      score = field("  ", "value", number_form, ",") + 0
      deviation = field("  ", "standard_deviation", number_form, "") + 0
      same(" },")
      same(" \"counts\": {")
      numbers_of("  "); left = field("  ", "unknown", whole, "") + 0; all = n; good = p; bad = r
      same(" },")
      # Words that no theorem bears out: those that CryoPrism has for them, and told as not checked.
      print "word prover", field(" ", "prover", "\"(Coq [0-9][0-9A-Za-z.+~-]*|no Coq found)\"", ",")
      print "word sandbox", field(" ", "sandbox", "\"(No Coq ran\\.|Coq ran in a bubblewrap sandbox\\.|" \
        "Coq ran with limits of time and memory, without a sandbox( [(]([^\"\\\\]|\\\\.)*[)])?\\.)\"", ",")
      print "word lean", field(" ", "lean", "\"(checked|emitted, not checked [(][A-Za-z ]+[)]|" \
        "refused by lean: ([^\"\\\\]|\\\\.)*)\"", ",")
      field(" ", "cpu_seconds", measure, ","); field(" ", "memory_in_bytes", whole, ",")
      list(" ", "sentences", text, ",")
      for (k = 1; k <= items; k++) sentence[k] = item_at[k]
      sentences = items
      print "trusted", list(" ", "trusted", text, ",")
      words_under(" ", "files", sum, "file")
      same(" \"rules\": [")
      do {
        same("  {")
        name = field("   ", "name", "\"[a-z_]+\"", ","); gsub(/"/, "", name)
        if (!(name in weight_of)) wrong("rule " name ": there is none of that name")
        if (("rule", name) in seen) wrong("rule " name)
        seen["rule", name] = asked[name] = 1
        if (bare(field("   ", "title", text, ",")) != title_of[name]) wrong("title of " name)
        if (bare(field("   ", "unit", text, ",")) != unit_of[name]) wrong("unit of " name)
        weight = field("   ", "weight", measure, ",")
        if (weight != weight_of[name]) wrong("weight of " name)
        numbers_of("   "); u = field("   ", "unknown", whole, ",") + 0
        if (p + r + u != n) wrong("counts of " name)
        sum_n += n; sum_p += p; sum_r += r; sum_u += u; above += weight * p; below += weight * n
        share = n - p + 0.5
        spread += weight * n * weight * n * (p + 0.5) * share / ((n + 1) * (n + 1) * (n + 2)); beside += weight * u
        most[name, 1] = p; most[name, 2] = r; most[name, 3] = u
        why = bare(field("   ", "why_unknown", text, ",")); field("   ", "note", text, ",")
        if (why != "" && !(why in known_why)) { known_why[why] = 1; whys[++why_count] = why }
        offending = ""; offenders = 0
        forward()
        if (line != "   \"offenders\": []") {
          if (line != "   \"offenders\": [") odd()
          do {
            same("    {")
            told_words = bare(field("     ", "words", text, ",")); list("     ", "residues", text, ",")
            if (!offenders++) first_words = told_words
            held = list("     ", "atoms", whole, ",")
            field("     ", "value", measure, "")
            if (r > 0 && held != "") offending = offending (offending == "" ? "" : ",") held
          } while (goes_on("    }"))
          same("   ]")
          if (r > 0) faults[++fault_count] = title_of[name] ": " first_words "." \
            (offenders > 1 ? " (" sprintf("%.0f", offenders - 1) " more)" : "")
        }
        printf "rule %s %.0f %.0f %.0f %.0f %s\n", name, n, p, r, u, offending == "" ? "-" : offending
      } while (goes_on("  }"))
      same(" ],")
      words_under(" ", "not_asked", text, "rule")
      if (!("clashes" in asked && "completeness" in asked)) wrong("rules: clashes and completeness are asked of every model")
      for (name in weight_of) if (!(("rule", name) in seen)) wrong("rules: nothing is said about " name)
      for (name in seen) {
        split(name, pair, SUBSEP)
        if (pair[1] == "rule" && !(pair[2] in weight_of)) wrong("rule " pair[2] ": there is none of that name")
      }
      forward()
      if (line != " \"by_residue\": []") {
        if (line != " \"by_residue\": [") odd()
        do {
          same("  {")
          field("   ", "chain", text, ","); field("   ", "name", text, ","); field("   ", "number", text, ",")
          same("   \"counts\": {")
          turn++
          do {
            forward()
            if (line !~ /^    "[a-z_]+": \[$/) odd()
            split(line, part, "\"")
            if (!(part[2] in asked)) odd()
            if (("turn", part[2]) in seen && seen["turn", part[2]] == turn) odd()
            seen["turn", part[2]] = turn
            for (k = 1; k <= 3; k++) { forward(); if (line !~ ("^     " whole (k < 3 ? "," : "") "$")) odd(); of_residues[part[2], k] += line + 0 }
          } while (goes_on("    ]"))
          same("   }")
        } while (goes_on("  }"))
        same(" ]")
      }
      same("}")
      if ((getline line <file) > 0) wrong("form: it goes on after its end")
      if (sum_n != all || sum_p != good || sum_r != bad || sum_u != left) wrong("counts: their sums differ")
      if (verdict != (bad ? "refuted" : left || !all ? "unknown" : "proved")) wrong("verdict")
      if (!below || !near(above / below, score)) wrong("logic_score")
      if (!near(root((spread + beside * beside / 12) / (below * below)), deviation)) wrong("standard_deviation")
      # Waters are not in by_residue.
      for (one in of_residues) if (of_residues[one] > most[one]) wrong("by_residue: more than the rules count")
      if (bad) say(model " is not consistent: " grouped(bad) " of " grouped(all) " checks are refuted, " \
        grouped(good) " proved, " grouped(left) " unknown.")
      else if (left) say(model " is not refuted, but " grouped(left) " of " grouped(all) " checks are unknown.")
      else say(model " is consistent: all " grouped(all) " checks are proved.")
      for (k = 1; k <= fault_count; k++) say(faults[k])
      for (k = 1; k <= why_count; k++) say("Unknown: " whys[k])
      if (left) say("Unknown is not proved: the " grouped(left) " unknown checks add nothing to LogicScore, and " \
        "its deviation spans what they leave open.")
      for (k = 1; k <= turns; k++) if (k > sentences || sentence[k] != said[k]) wrong("sentences: number " k)
      for (; k <= sentences; k++) {
        if (!unnamed && sentence[k] ~ /^"Whether [A-Za-z0-9+?, -]+ (is what its name says|are what their names say) was not checked: no table has the formula\."$/) { unnamed = 1; continue }
        gsub(/[0-9]+/, "#", sentence[k])
        if (!(sentence[k] in remark)) wrong("sentences: number " k)
        delete remark[sentence[k]]
      }
      printf "counts %.0f %.0f %.0f %.0f\n", all, good, bad, left
    }'
}
# A plain file of this folder, as it is now: what is checked is what is then used.
take() {
  { [ -f "$1" ] && [ ! -h "$1" ]; } || refuse "$1 is missing, or no plain file."
  cat "./$1" >"$work/$1"
}

command -v coqc >/dev/null || refuse "there is no coqc; install Coq 8.16 or later (Debian, Ubuntu: apt install coq)."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ulimit -s 1000000 2>/dev/null || true

# 1
mkdir "$work/library" "$work/model"
others="consistency.json atoms.csv check.sh check_data.py transcript.txt README.md Obligations.lean Makefile"
known=""
for name in $library; do known="$known library/$name.v"; done
for name in $model_files; do known="$known model/$name.v"; done
for folder in library model; do
  { [ -d "$folder" ] && [ ! -h "$folder" ]; } || refuse "$folder is missing, or no plain folder."
  for file in "$folder"/* "$folder"/.[!.]* "$folder"/..?*; do
    if [ ! -e "$file" ] && [ ! -h "$file" ]; then continue; fi
    case "$known " in
      *" $file "*) take "$file" ;;
      *) refuse "$file is no file of a certificate." ;;
    esac
  done
done
for file in $others; do take "$file"; done
for file in * .[!.]* ..?*; do
  if [ ! -e "$file" ] && [ ! -h "$file" ]; then continue; fi
  case " library model $others " in
    *" $file "*) ;;
    *) refuse "$file is no file of a certificate." ;;
  esac
done
cd "$work"
claims_of consistency.json >claims
if grep '^wrong' claims >wrong; then refuse "consistency.json: $(cat wrong)."; fi
grep -q '^counts' claims || refuse "consistency.json cannot be read."
if [ -e "$here/../consistency.json" ]; then
  cmp -s "$here/../consistency.json" consistency.json ||
    refuse "consistency.json here and beside this folder do not say the same."
fi
for line in $library_sums; do
  file=library/${line%%=*}.v
  { [ -f "$file" ] && [ "$(sum_of "$file")" = "${line#*=}" ]; } || refuse "$file is not CryoPrism's."
done
for file in $(sed -n 's/^file \([^ ]*\) .*/\1/p' claims); do
  case "$known $others " in
    *" $file "*) ;;
    *) refuse "$file is no file of a certificate, but consistency.json lists it." ;;
  esac
  [ -f "$file" ] || refuse "$file is missing."
done
for file in library/* model/* $others; do
  [ "$file" != consistency.json ] || continue
  sum=$(sed -n "s|^file $file ||p" claims)
  [ -n "$sum" ] || refuse "$file is unknown to consistency.json."
  [ "$sum" = "$(sum_of "$file")" ] || refuse "$file is not the one that consistency.json was written with."
done
for line in $fixed_sums; do
  [ "$(sum_of "${line%%=*}")" = "${line#*=}" ] || refuse "${line%%=*} is not CryoPrism's."
done
sed -n 's/^trusted //p' claims >trusted
[ "$(sum_of trusted)" = "$trusted_sum" ] || refuse "consistency.json: trusted is not the list of this version."
model_sum=$(sed -n 's/^model_sha256 //p' claims)
name=$(sed -n 's/^model //p' claims)
if [ -n "$given" ]; then
  [ -f "$given" ] || refuse "$given is no file."
  [ "$(sum_of "$given")" = "$model_sum" ] || refuse "$given is not the file of this certificate: its SHA-256 is another."
fi
# Python alone, without what else lies about: of this folder it is to run no more than that file.
unread="the atoms with the model file"
if command -v python3 >/dev/null; then
  python3 -I check_data.py || refuse "model/Data.v is not what atoms.csv says."
  if [ -n "$given" ] && python3 -I -c 'import gemmi' 2>/dev/null; then
    python3 -I check_data.py "$given" || refuse "atoms.csv is not what $given says."
    unread=""
  fi
fi

# 2
echo "$words" | tr ' ' '\n' | sort -u >words
for file in model/*.v; do
  [ "$file" != model/Data.v ] || continue
  printf '%s\n' "$beginning" >beginning
  lines=$(wc -l <beginning)
  head -n "$lines" "$file" | cmp -s - beginning || refuse "$file does not begin as files of a rule do."
  tail -n "+$((lines + 1))" "$file" | tr -c 'A-Za-z0-9_' '\n' | grep '^[A-Z]' | sort -u | comm -23 - words >others
  if [ -s others ] || grep -q '#' "$file"; then
    refuse "$file takes something for granted or commands Coq: $(tr '\n' ' ' <others)"
  fi
done
# The atoms are the numbers that stand there, and nothing is done to them: each line has the one form that it can have.
if [ -f model/Data.v ]; then
  awk '
    function no() { bad = 1; exit }
    NR == 1 { if ($0 !~ /^\(\* [0-9]+ atoms, 0\.001 [^ ()*]+ from \(-?[0-9]+, -?[0-9]+, -?[0-9]+\) \*\)$/) no(); next }
    NR == 2 { if ($0 != "From Coq Require Import List Uint63.") no(); next }
    NR == 3 { if ($0 != "From CryoPrism Require Import Points.") no(); next }
    NR == 4 { if ($0 != "Import ListNotations.") no(); next }
    !rest && index($0, "Definition packed_" (parts + 0) " : block := (") == 1 {
      if ($0 !~ /^Definition packed_[0-9]+ : block := (\(Block( [0-9]+)+ )+Stop\)+%uint63\.$/) no()
      joined = joined "unpacked packed_" (parts + 0) " ++ "
      parts++
      next
    }
    !rest++ { if ($0 !~ /^Definition packed_rest : list int := \(([0-9]+::)*nil\)%uint63\.$/) no(); next }
    !all++ { if ($0 != "Definition packed : list int := " joined "packed_rest.") no(); next }
    !last++ { if ($0 != "Definition atoms : list atom := decode_all 0%uint63 packed.") no(); next }
    { no() }
    END { exit bad || !last }' model/Data.v || refuse "model/Data.v holds something else than packed atoms."
fi

# 3
cd "$work/library"
for file in $library; do
  echo "$file"
  coqc -q -Q . CryoPrism "$file.v" >/dev/null || refuse "Coq does not accept library/$file.v."
done
cd "$work/model"
modules=""
for file in $model_files; do
  [ -f "$file.v" ] || continue
  # What the limits of time and memory kept from a verdict has none here either.
  if grep -qx "== $file.v: accepted ==" "$work/transcript.txt"; then
    echo "$file"
    coqc -q -Q ../library CryoPrism -Q . Model "$file.v" >/dev/null || refuse "Coq does not accept model/$file.v."
    modules="$modules $file"
  fi
done

# 4, 5
header() {
  echo "From Coq Require Import ZArith List Uint63."
  echo "From CryoPrism Require Import Points Copies Mates Local Ligands Scale Packing Claims."
  echo "From Model Require$modules."
  echo "Import ListNotations."
  echo "Open Scope Z_scope."
}
# Name, statement, the theorem that has to have it: to the letter, since to compare by computation could take for ever.
state() {
  cat >>Statements.v <<END
Definition $1 : $2.
Proof.
  let stated := type of $3 in
  let wanted := eval cbv beta delta [clashes_claim clashes_right copies_claim copies_right distances_claim scale_claim
    fours_claim numbers_claim envelope_claim ligands_claim] in ($2) in constr_eq stated wanted.
  exact $3.
Defined.
END
  stated="$stated${stated:+, }Model.Statements.$1"
}
margin_of() { # of a module's lists: none, or a number of 0.001 Å
  sed -n "/^Module $2\.\$/,/^End $2\.\$/p" "$1.v" | sed -n 's/^Definition found_within_\([0-9]*\) .*/\1/p'
}
header >Statements.v
header >Counts.v
# The atoms are what is packed, each with its place as its number: all rules name atoms so.
cat >>Statements.v <<END
Definition s_atoms : atoms_claim Model.Data.packed Model.Data.atoms.
Proof.
  let held := eval cbv delta [Model.Data.atoms] in Model.Data.atoms in
  constr_eq held (decode_all 0%uint63 Model.Data.packed).
  unfold Model.Data.atoms.
  exact (atoms_numbered Model.Data.packed).
Defined.
END
stated="Model.Statements.s_atoms"
open_rules=""
claimed=""
while read -r kind rule all proved refuted unknown atoms; do
  [ "$kind" = rule ] || continue
  case $rule in
    clashes) file=Clashes module=Clashes ;;
    copies) file=Copies_of_model module=Copies ;;
    bonds) file=Local_rules module=Bonds ;;
    chains) file=Local_rules module=Chains ;;
    scale) file=Local_rules module=Scale ;;
    chirality) file=Local_rules module=Chirality ;;
    cis_peptides) file=Local_rules module=Cis_peptides ;;
    numbering) file=Local_rules module=Numbering ;;
    completeness) file=Local_rules module=Completeness ;;
    envelope) file=Local_rules module=Envelope ;;
    placement) file=Local_rules module=Placement ;;
    ligands) file=Local_rules module=Ligands ;;
    *) refuse "there is no rule '$rule'." ;;
  esac
  case " $modules " in
    *" $file "*) ;;
    *)
      [ "$unknown" = "$all" ] || refuse "nothing is proved about $rule, but consistency.json has verdicts."
      open_rules="$open_rules $rule"
      continue
      ;;
  esac
  claimed="$claimed $file.$module"
  m=Model.$file.$module
  d=Model.Data.atoms
  margin=$(margin_of "$file" "$module")
  case $rule:$margin in
    clashes: | clashes:2 | bonds: | bonds:2 | chains: | chains:2 | scale: | scale:2 | copies:2 | copies:5) ;;
    chirality: | cis_peptides: | numbering: | completeness: | envelope: | placement: | ligands:) ;;
    *) refuse "$rule has a margin that no rule has: $margin." ;;
  esac
  wide=${margin:+_within_$margin}
  narrow=${margin:+_beyond_$margin}
  plus=${margin:-0}
  minus=$((9223372036854775807 - plus + 1))
  [ "$plus" != 0 ] || minus=0
  case $rule in
    clashes)
      state s_clashes "clashes_claim $plus $d $m.bonds $m.found$wide" "$m.clashes$wide"
      [ "$plus" = 0 ] || state s_clashes_sure "clashes_right $minus $d $m.bonds $m.found$narrow" "$m.clashes$narrow"
      tally="residues_tally $d $d (of_pairs $m.found$wide) (of_pairs $m.found$narrow)"
      ;;
    copies)
      state s_copies "copies_claim false $plus $d $m.joined $m.ops $m.found$wide" "$m.copies$wide"
      state s_copies_sure "copies_right true $minus $d $m.joined $m.ops $m.found$narrow" "$m.copies$narrow"
      tally="residues_tally $d $d (of_copies $m.found$wide ++ $m.unjudged) (of_copies $m.found$narrow)"
      ;;
    bonds | chains)
      state "s_$rule" "distances_claim $plus $d $m.obligations $m.found$wide" "$m.distances$wide"
      [ "$plus" = 0 ] ||
        state "s_${rule}_sure" "distances_claim (-$plus) $d $m.obligations $m.found$narrow" "$m.distances$narrow"
      tally="listed_tally ends $m.obligations $m.found$wide $m.found$narrow"
      ;;
    scale)
      state s_scale "scale_claim $plus $d $m.obligations $m.found$wide" "$m.scale$wide"
      [ "$plus" = 0 ] || state s_scale_sure "scale_claim (-$plus) $d $m.obligations $m.found$narrow" "$m.scale$narrow"
      tally="listed_tally no_bond $m.obligations $m.found$wide $m.found$narrow"
      ;;
    chirality)
      state s_chirality "fours_claim volume $d $m.obligations $m.found" "$m.volumes"
      tally="listed_tally centre $m.obligations $m.found $m.found"
      ;;
    cis_peptides)
      state s_cis_peptides "fours_claim side $d $m.obligations $m.found" "$m.sides"
      tally="listed_tally outer $m.obligations $m.found $m.found"
      ;;
    numbering)
      state s_numbering "numbers_claim $m.obligations $m.found" "$m.numbers_agree"
      tally="listed_tally no_atoms $m.obligations $m.found $m.found"
      ;;
    completeness | placement)
      state "s_$rule" "numbers_claim $m.obligations $m.found" "$m.numbers_agree"
      tally="listed_tally no_atoms $m.obligations $m.found (both $m.sure $m.found)"
      ;;
    envelope)
      state s_envelope "envelope_claim $d $m.lattice $m.voxels $m.found" "$m.inside"
      tally="envelope_tally $d $m.found $m.unjudged"
      ;;
    ligands)
      slack=0
      if grep -q 'sq (reach - 5)' "$file.v"; then slack=5; fi
      state s_ligands "ligands_claim $slack $d $m.ops $m.touches $m.alone" "$m.ligands"
      tally="ligands_tally $d $m.asked $m.touches $m.alone"
      ;;
  esac
  listed=$([ "$atoms" = - ] || echo "$atoms" | sed 's/,/ :: /g; s/$/ :: /')
  printf 'Theorem %s_counted :\n  %s =\n  Tally %s %s %s %s (%snil)%%uint63.\nProof. vm_compute. reflexivity. Qed.\n' \
    "$rule" "$tally" "$all" "$proved" "$refuted" "$unknown" "$listed" >>Counts.v
done <"$work/claims"
for file in $modules; do
  for module in $(sed -n 's/^Module \(.*\)\.$/\1/p' "$file.v"); do
    case "$claimed " in
      *" $file.$module "*) ;;
      *) refuse "model/$file.v proves something about $module, of which consistency.json says nothing." ;;
    esac
  done
done
atoms=$(sed -n 's/^top \([0-9]*\) .*/\1/p' "$work/claims")
residues=$(sed -n 's/^top [0-9]* \([0-9]*\) .*/\1/p' "$work/claims")
printf 'Theorem atoms_counted : (Z.of_nat (length Model.Data.atoms), size_of (residues Model.Data.atoms)) = (%s, %s).\n%s\n' \
  "$atoms" "$residues" "Proof. vm_compute. reflexivity. Qed." >>Counts.v

case " $modules " in
  *" Data "*) ;;
  *)
    echo "Coq gave no verdict when this was written, and consistency.json claims none."
    exit 3
    ;;
esac
# All at once: to go through the library takes longest. Without imports, so that names are told in full.
printf 'From Model Require Statements.\nDefinition all := (%s).\nPrint Assumptions all.\n' "$stated" >Assumed.v
echo Statements
coqc -q -Q ../library CryoPrism -Q . Model Statements.v || refuse "a theorem does not state what its rule says."
coqc -q -Q ../library CryoPrism -Q . Model Assumed.v >said || refuse "Coq does not say what the theorems rest on."
sed -e '/^ /d; /^Axioms:$/d; /^Closed under the global context$/d' -e 's/ .*//' \
  -e 's/^Coq\.Numbers\.Cyclic\.Int63\.//; s/^Corelib\.Numbers\.Cyclic\.Int63\.//; s/^Stdlib\.Numbers\.Cyclic\.Int63\.//' \
  said | sort -u >assumed
echo "$axioms" | tr ' ' '\n' | sort -u >known
others=$(comm -23 assumed known | tr '\n' ' ')
[ -z "$others" ] || refuse "theorems take for granted: $others"
echo Counts
coqc -q -Q ../library CryoPrism -Q . Model Counts.v >/dev/null ||
  refuse "the theorems do not have the counts or the atoms of consistency.json."
silent=$(sed -n 's/^silent //p' "$work/claims" | tr '\n' ' ')
[ -z "$silent" ] || echo "Not asked, by the word of consistency.json: ${silent% }."
[ -z "$open_rules" ] || echo "Without a verdict then, and so not checked:$open_rules."
# printf, since some shells' echo would make lines of what a file's name holds.
printf 'Not checked by this script:%s cpu_seconds, memory_in_bytes, what transcript.txt and Obligations.lean say.\n' \
  "$(sed -n 's/^word \([a-z]*\) \(.*\)$/ \1 \2;/p' "$work/claims" | tr -d '\n')"
printf 'Not compared: %swords and values of offenders, note, why_unknown, names and counts of by_residue.\n' \
  "${unread:+$unread, }"
if [ -n "$given" ]; then
  of="of $given"
  [ "${given##*/}" = "$name" ] || of="$of, which consistency.json calls $name"
else
  of="of a file with SHA-256 $model_sum, which was not at hand and which consistency.json calls $name"
fi
printf 'All theorems were accepted; consistency.json says what they say: %s, %s.\n' "$(sed -n \
  's/^counts \([0-9]*\) \([0-9]*\) \([0-9]*\) \([0-9]*\)$/\1 obligations, \2 proved, \3 refuted, \4 unknown/p' \
  "$work/claims")" "$of"
