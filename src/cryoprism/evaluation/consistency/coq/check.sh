#!/bin/sh
# Check a certificate again: sh check.sh. Needs coqc (8.16 or later) and the tools that every Unix has.
#
# 1. Files are those that consistency.json was written with, the library is that of this version of CryoPrism.
# 2. The model's files hold definitions and theorems, and no command that could take anything for granted.
# 3. Coq accepts them.
# 4. Each theorem states what its rule says (library/Claims.v), and rests on machine integers alone.
# 5. The theorems give the counts and the atoms of consistency.json; verdict and score follow from these.
# This file is the same in every certificate of a version.
set -eu
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")"
here=$(pwd)
library="@LIBRARY@"
library_sums="
@SUMS@
"
axioms="PrimInt63.add PrimInt63.eqb PrimInt63.int PrimInt63.land PrimInt63.leb PrimInt63.lor PrimInt63.lsl
PrimInt63.lsr PrimInt63.ltb PrimInt63.mul PrimInt63.sub Uint63.add_spec Uint63.eqb_correct Uint63.eqb_refl
Uint63.land_spec Uint63.leb_spec Uint63.lor_spec Uint63.lsl_spec Uint63.lsr_spec Uint63.ltb_spec Uint63.mul_spec
Uint63.of_to_Z Uint63.sub_spec"
# All capitalised words that a model's file may hold: Coq's commands are capitalised too.
words="Block Bool Bonds Chains Check Chirality Cis_peptides Clashes Completeness Copies Coq CryoPrism D2 Data Definition E2 End Envelope
From Grid Import In Ligands List ListNotations Local Mates Model Module Numbering Op Open Packing Points Proof Qed
Range Require Row Scope Some Stop Theorem Touch Uint63 Z ZArith Z_scope"

refuse() {
  echo "Refused: $1" >&2
  exit 1
}
sum_of() {
  if command -v sha256sum >/dev/null; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi | cut -d ' ' -f 1
}
# consistency.json as lines: top ATOMS RESIDUES VERDICT, file NAME SUM, rule NAME ALL PROVED REFUTED UNKNOWN ATOMS.
claims_of() {
  tr -d ' \t\r\n' <"$1" | tr '{}' '\n\n' | awk '
    function wrong(what) { print "wrong " what; failed = 1; exit }
    function value(key) {
      if (!match($0, "\"" key "\":[^,]+")) wrong(key)
      return substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
    }
    function show() { if (name != "") print "rule", name, n, p, r, u, atoms == "" ? "-" : atoms }
    match($0, /,"atoms":[0-9]+,"residues":[0-9]+,"verdict":"[a-z]+","logic_score":$/) {
      if (head++) wrong("head")
      split(substr($0, RSTART + 1, RLENGTH), part, /[:,"]+/)
      print "top", part[3], part[5], part[7]
      verdict = part[7]
    }
    /^"value":[^,]*,"standard_deviation":[^,]*$/ && !scored++ { score = value("value") + 0 }
    /^"obligations":[0-9]+,"proved":[0-9]+,"refuted":[0-9]+,"unknown":[0-9]+$/ {
      if (counted++) wrong("counts")
      all = value("obligations") + 0; good = value("proved") + 0; bad = value("refuted") + 0; left = value("unknown") + 0
    }
    listing && /"/ {
      listing = 0
      files = split($0, part, ",")
      for (k = 1; k <= files; k++) {
        if (part[k] !~ /^"[A-Za-z0-9_.\/]+":"[0-9a-f]+"$/) wrong("files")
        split(part[k], pair, "\"")
        print "file", pair[2], pair[4]
      }
    }
    /"files":$/ { if (listed++) wrong("files"); listing = 1 }
    /"rules":\[\],"by_residue":/ { begun++; ended++ }
    /^\],"by_residue":/ { show(); name = ""; rules = 0; ended++ }
    rules && /^"name":/ {
      show()
      if ($0 !~ /^"name":"[a-z_]+","title":"[^"]*","unit":"[^"]*","weight":[0-9.e-]+,"obligations":[0-9]+,"proved":[0-9]+,"refuted":[0-9]+,"unknown":[0-9]+,"why_unknown":"/) wrong("rule")
      name = value("name"); gsub(/"/, "", name)
      if (name in seen) wrong("rule " name)
      seen[name] = 1
      n = value("obligations") + 0; p = value("proved") + 0; r = value("refuted") + 0; u = value("unknown") + 0; atoms = ""
      if (p + r + u != n) wrong("counts of " name)
      sum_n += n; sum_p += p; sum_r += r; sum_u += u
      weight = value("weight") + 0; top += weight * p; whole += weight * n
    }
    rules && match($0, /\],"atoms":\[[0-9,]*\],"value":(null|[-+0-9.e]+)$/) && r > 0 {
      held = substr($0, RSTART + 11, RLENGTH); sub(/\].*/, "", held)
      if (held != "") atoms = atoms (atoms == "" ? "" : ",") held
    }
    /"rules":\[$/ { if (begun++) wrong("rules"); rules = 1 }
    END {
      if (failed) exit
      if (head != 1 || listed != 1 || ended != 1) wrong("form")
      if (sum_n != all || sum_p != good || sum_r != bad || sum_u != left) wrong("counts: their sums differ")
      if (verdict != (bad ? "refuted" : left || !all ? "unknown" : "proved")) wrong("verdict")
      if (whole && (top / whole - score > 1e-9 || score - top / whole > 1e-9)) wrong("logic_score")
      print "counts", all, good, bad, left
    }'
}

command -v coqc >/dev/null || refuse "there is no coqc; install Coq 8.16 or later (Debian, Ubuntu: apt install coq)."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ulimit -s 1000000 2>/dev/null || true

# 1
[ -f consistency.json ] || refuse "consistency.json is missing."
claims_of consistency.json >"$work/claims"
if grep '^wrong' "$work/claims" >"$work/wrong"; then refuse "consistency.json: $(cat "$work/wrong")."; fi
if [ -f ../consistency.json ]; then
  claims_of ../consistency.json | cmp -s - "$work/claims" ||
    refuse "consistency.json here and beside this folder do not say the same."
fi
for line in $library_sums; do
  file=library/${line%%=*}.v
  { [ -f "$file" ] && [ "$(sum_of "$file")" = "${line#*=}" ]; } || refuse "$file is not CryoPrism's."
done
for file in library/* model/* atoms.csv check.sh check_data.py transcript.txt; do
  sum=$(sed -n "s|^file $file ||p" "$work/claims")
  [ -n "$sum" ] || refuse "$file is unknown to consistency.json."
  [ "$sum" = "$(sum_of "$file")" ] || refuse "$file is not the one that consistency.json was written with."
done
if command -v python3 >/dev/null; then python3 check_data.py; fi

# 2
echo "$words" | tr ' ' '\n' | sort -u >"$work/words"
for file in model/*.v; do
  tr -c 'A-Za-z0-9_' '\n' <"$file" | grep '^[A-Z]' | sort -u | comm -23 - "$work/words" >"$work/others"
  if [ -s "$work/others" ] || grep -q '#' "$file"; then
    refuse "$file takes something for granted or commands Coq: $(tr '\n' ' ' <"$work/others")"
  fi
done

# 3
cp -r library model "$work"
cd "$work/library"
for file in $library; do
  echo "$file"
  coqc -q -Q . CryoPrism "$file.v" >/dev/null || refuse "Coq does not accept library/$file.v."
done
cd "$work/model"
modules=""
for file in Data $(ls | sed -n 's/\.v$//p' | grep -vx Data); do
  # What the limits of time and memory kept from a verdict has none here either.
  if grep -qx "== $file.v: accepted ==" "$here/transcript.txt"; then
    echo "$file"
    coqc -q -Q ../library CryoPrism -Q . Model "$file.v" >/dev/null || refuse "Coq does not accept model/$file.v."
    modules="$modules $file"
  fi
done

# 4, 5
header() {
  echo "From Coq Require Import ZArith List Uint63."
  echo "From CryoPrism Require Import Points Copies Mates Local Ligands Packing Claims."
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
  let wanted := eval cbv beta delta [clashes_claim clashes_right copies_claim copies_right distances_claim fours_claim
    numbers_claim envelope_claim ligands_claim] in ($2) in constr_eq stated wanted.
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
stated=""
open_rules=""
claimed=""
while read -r kind rule all proved refuted unknown atoms; do
  [ "$kind" = rule ] || continue
  case $rule in
    clashes) file=Clashes module=Clashes ;;
    copies) file=Copies_of_model module=Copies ;;
    bonds) file=Local_rules module=Bonds ;;
    chains) file=Local_rules module=Chains ;;
    chirality) file=Local_rules module=Chirality ;;
    cis_peptides) file=Local_rules module=Cis_peptides ;;
    numbering) file=Local_rules module=Numbering ;;
    completeness) file=Local_rules module=Completeness ;;
    envelope) file=Local_rules module=Envelope ;;
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
    clashes: | clashes:2 | bonds: | bonds:2 | chains: | chains:2 | copies:2 | copies:5) ;;
    chirality: | cis_peptides: | numbering: | completeness: | envelope: | ligands:) ;;
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
    completeness)
      state s_completeness "numbers_claim $m.obligations $m.found" "$m.numbers_agree"
      tally="listed_tally no_atoms $m.obligations $m.found (both $m.sure $m.found)"
      ;;
    envelope)
      state s_envelope "envelope_claim $d $m.lattice $m.voxels $m.found" "$m.inside"
      tally="envelope_tally $d $m.found"
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
read -r kind atoms residues verdict <"$work/claims"
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
[ -z "$open_rules" ] || echo "Without a verdict then, and so not checked:$open_rules."
echo "All theorems were accepted; consistency.json says what they say: $(sed -n \
  's/^counts \([0-9]*\) \([0-9]*\) \([0-9]*\) \([0-9]*\)$/\1 obligations, \2 proved, \3 refuted, \4 unknown/p' \
  "$work/claims")."
