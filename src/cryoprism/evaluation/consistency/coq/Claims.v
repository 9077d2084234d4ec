(** What a certificate claims: the statement of each rule's theorem, and how consistency.json counts what it says.

    check.sh writes the numbers of consistency.json into theorems about these definitions; Coq then says whether the
    model's theorems have these statements and these counts. *)
From Coq Require Import ZArith List Bool Uint63 FMapPositive.
From CryoPrism Require Import Points Copies Mates Local Ligands Scale.
Import ListNotations.
Open Scope Z_scope.

(** ** Statements *)
Definition clashes_right margin atoms bonds (found : list (int * int)) : Prop :=
  forall i j, In (i, j) found -> exists a b,
    In a atoms /\ In b atoms /\ id a = i /\ id b = j /\ clashing margin bonds a b.
Definition clashes_claim margin atoms bonds (found : list (int * int)) : Prop :=
  (forall a b, In a atoms -> In b atoms -> to_Z (id a) < to_Z (id b) ->
     clashing margin bonds a b -> In (id a, id b) found)
  /\ clashes_right margin atoms bonds found.
Definition copies_right sure margin atoms joined (ops : list (int * op)) (found : list (int * int * int)) : Prop :=
  forall n i j, In (n, i, j) found -> exists o a b,
    In (n, o) ops /\ In a atoms /\ In b atoms /\ id a = i /\ id b = j /\ overlapping sure margin joined n o a b.
Definition copies_claim sure margin atoms joined (ops : list (int * op)) (found : list (int * int * int)) : Prop :=
  (forall n o a b, In (n, o) ops -> In a atoms -> In b atoms ->
     overlapping sure margin joined n o a b -> In (n, id a, id b) found)
  /\ copies_right sure margin atoms joined ops found.
Definition distances_claim slack atoms (obligations : list pair) found : Prop :=
  forall k q, nth_error obligations k = Some q -> exists a b,
    In a atoms /\ In b atoms /\ id a = first q /\ id b = second q /\
    (In (Z.of_nat k) found <-> ~ (sq (least q + slack) <= D2 a b <= sq (most q - slack))).
Definition scale_claim slack atoms (obligations : list group) found : Prop :=
  forall k g, nth_error obligations k = Some g -> exists ds,
    Forall2 (squared atoms) (members g) ds /\
    (In (Z.of_nat k) found <-> ~ in_scale slack (total ds) (total (map ideal (members g)))).
Definition fours_claim (f : atom -> atom -> atom -> atom -> Z) atoms (obligations : list four) found : Prop :=
  forall k q, nth_error obligations k = Some q -> exists a b c d,
    In a atoms /\ In b atoms /\ In c atoms /\ In d atoms /\
    id a = q1 q /\ id b = q2 q /\ id c = q3 q /\ id d = q4 q /\
    (In (Z.of_nat k) found <-> ~ (low_end q <= f a b c d <= high_end q)).
Definition numbers_claim (obligations : list numbers) found : Prop :=
  forall k q, nth_error obligations k = Some q -> (In (Z.of_nat k) found <-> ~ numbers_hold q).
Definition envelope_claim atoms lattice voxels found : Prop :=
  forall k a, nth_error atoms k = Some a -> (In (Z.of_nat k) found <-> ~ In (box_of lattice a) voxels).
Definition ligands_claim slack atoms (ops : list (int * op)) touches alone : Prop :=
  (forall q, In q touches -> exists o a b, In (copy q, o) ops /\ In a atoms /\ In b atoms /\
     res a = ligand q /\ partner (copy q) (ligand q) b = true /\ related o a b = true /\ E2 o a b <= sq (reach - slack))
  /\ (forall r n o a b, In r alone -> In (n, o) ops -> In a atoms -> In b atoms -> res a = r ->
     partner n r b = true -> related o a b = true -> sq (reach + slack) < E2 o a b).

(** ** Counts: obligations, proved, refuted, unknown, and the atoms of what is refuted *)
Record tally := Tally { asked : Z; proved : Z; refuted : Z; open : Z; offending : list int }.
Definition set := PM.t Datatypes.unit.
Definition none : set := PM.empty Datatypes.unit.
Definition size_of (s : set) : Z := Z.of_nat (PM.cardinal s).
Definition without (s t : set) : set := PM.fold (fun k _ m => if PM.mem k t then m else PM.add k tt m) s none.

(** Obligations by their place in a list; [possible] holds [sure] and what rounding leaves open. *)
Definition places (l : list Z) : set :=
  fold_left (fun m k => if k <? 0 then m else PM.add (Z.to_pos (k + 1)) tt m) l none.
Fixpoint at_places {T} (k : positive) (l : list T) (s : set) : list T :=
  match l with
  | [] => []
  | q :: r => if PM.mem k s then q :: at_places (Pos.succ k) r s else at_places (Pos.succ k) r s
  end.
Definition listed_tally {T} (show : T -> list int) (l : list T) (possible sure : list Z) : tally :=
  let n := Z.of_nat (length l) in
  let bad := at_places 1 l (places sure) in
  let m := Z.of_nat (length (at_places 1 l (places possible))) in
  Tally n (n - m) (Z.of_nat (length bad)) (m - Z.of_nat (length bad)) (flat_map show bad).
(** What is refuted among what fails; the rest is open, since nothing tells whether a file was cut. *)
Definition both (l m : list Z) : list Z := filter (fun k => existsb (Z.eqb k) m) l.
Definition ends (q : pair) := [first q; second q].
Definition centre (q : four) := [q1 q].
Definition outer (q : four) := [q1 q; q4 q].
Definition no_atoms (q : numbers) : list int := [].

(** The bonds of a chain together: none of them is the one that is wrong. *)
Definition no_bond (g : group) : list int := [].

(** Obligations that are residues: refuted by the atoms in [sure]. *)
Definition residues (atoms : list atom) : set := fold_left (fun m a => PM.add (digits 31 (res a)) tt m) atoms none.
Definition residues_at (atoms : list atom) (numbers : list int) : set :=
  let t := by_number atoms in
  residues (flat_map (fun i => match atom_at t i with Some a => [a] | None => [] end) numbers).
Definition residues_tally (judged : list atom) (atoms : list atom) (possible sure : list int) : tally :=
  let bad := residues_at atoms sure in
  let maybe := residues_at atoms possible in
  let left := without maybe bad in
  let n := size_of (residues judged) in
  Tally n (n - size_of bad - size_of left) (size_of bad) (size_of left) sure.
Definition of_pairs (l : list (int * int)) := flat_map (fun p => [fst p; snd p]) l.
Definition of_copies (l : list (int * int * int)) := flat_map (fun p => [snd (fst p); snd p]) l.
(** Hydrogens and waters say nothing about the envelope. *)
Definition in_map (a : atom) : bool := negb ((kind a =? 3) || (kind a =? 4))%uint63.
(** With atoms that are not judged, in a map that looks like noise, all is open. *)
Definition envelope_tally (atoms : list atom) (found : list Z) (unjudged : list int) : tally :=
  let judged := filter in_map atoms in
  match unjudged with
  | [] => let bad := map id (filter in_map (at_places 1 atoms (places found))) in residues_tally judged atoms bad bad
  | _ => residues_tally judged judged unjudged []
  end.
Definition keys (l : list int) : set := fold_left (fun m r => PM.add (digits 31 r) tt m) l none.
Definition ligands_tally (atoms : list atom) (all : list int) (touches : list touch) (alone : list int) : tally :=
  let lonely := keys alone in
  let n := size_of (keys all) in
  let good := size_of (keys (map ligand touches)) in
  Tally n good (size_of lonely) (n - good - size_of lonely)
    (map id (filter (fun a => PM.mem (digits 31 (res a)) lonely) atoms)).
