(** Clashes: among the atoms of a model, and with its symmetry copies. *)
From Coq Require Import ZArith List Lia Bool Uint63.
From CryoPrism Require Import Points.
Import ListNotations.
Open Scope Z_scope.

Definition acceptor (k : int) : bool := ((k =? 1) || (k =? 4))%uint63.
(** Nearest that atoms without a bond come, 0.001 Å, and a margin for rounding. *)
Definition limit (margin ka kb : int) : int :=
  (margin + (if (ka =? 2) || (kb =? 2) then (if ka =? kb then 2000 else if (ka =? 3) || (kb =? 3) then 1200 else
                                                   if (ka =? 0) || (kb =? 0) then 1900 else 1600)
             else if (ka =? 3) || (kb =? 3) then (if acceptor ka || acceptor kb then 1200 else 1600)
             else 2200))%uint63.
(** The same for atoms that share a bond, and for two that are bonded to one and the same atom. *)
Definition bonded_limit (margin ka kb : int) : int :=
  (margin + (if (ka =? 3) || (kb =? 3) then 600 else if (ka =? 2) || (kb =? 2) then 1400 else 900))%uint63.
Definition angle_limit (margin ka kb : int) : int :=
  (margin + (if (ka =? 3) || (kb =? 3) then 1200 else if (ka =? 2) || (kb =? 2) then 1600 else 1900))%uint63.
(** Not there at once, or not surely: different alternatives whose occupancies add to no more than 1 (and the 0.01 that
    two decimals may hide). Who adds to more is there at once by the pigeonhole; who bears no letter always is. *)
Definition alternatives (a b : atom) : bool :=
  (if alt a =? 0 then false else if alt b =? 0 then false else if alt a =? alt b then false
   else occ a + occ b <=? 1010)%uint63.
Definition there_at_once (a b : atom) : bool := negb (alternatives a b).
(** Nearer than every limit that is there for the pair. *)
Definition clashing margin B (a b : atom) : Prop :=
  there_at_once a b = true /\ D2 a b < sq (to_Z (limit margin (kind a) (kind b)))
  /\ (bonded B (id a) (id b) -> D2 a b < sq (to_Z (bonded_limit margin (kind a) (kind b))))
  /\ (two_apart B (id a) (id b) -> D2 a b < sq (to_Z (angle_limit margin (kind a) (kind b)))).

Definition squared_below (d l : int) : bool := (d <? l * l)%uint63.
Lemma squared_below_spec d l : to_Z l <= 4096 -> (squared_below d l = true <-> to_Z d < sq (to_Z l)).
Proof.
  intro H. unfold squared_below. rewrite ltb_spec, mul_spec. pose proof (to_Z_bounded l).
  rewrite Z.mod_small by (rewrite wB_value; nia). reflexivity.
Qed.
Definition clashing_b margin g (a b : atom) : bool :=
  let d := dist2 (px a) (py a) (pz a) (px b) (py b) (pz b) in
  if squared_below d (limit margin (kind a) (kind b)) then
    if there_at_once a b then
      if (if bonded_b g (id a) (id b) then squared_below d (bonded_limit margin (kind a) (kind b)) else true) then
        if two_apart_b g (id a) (id b) then squared_below d (angle_limit margin (kind a) (kind b)) else true
      else false
    else false
  else false.
(** Margins are small, and may be negative (as machine integers are, modulo 2^63). *)
Definition sound (margin : int) : bool := ((margin <=? 100) || (9223372036854775708 <=? margin))%uint63.
Lemma shifted m c : sound m = true -> 100 <= to_Z c <= 3000 -> to_Z (m + c)%uint63 <= 4096.
Proof.
  unfold sound. rewrite orb_true_iff, !leb_spec, add_spec. intros H C.
  change (to_Z 100) with 100 in H. change (to_Z 9223372036854775708) with 9223372036854775708 in H.
  pose proof (to_Z_bounded m) as B. rewrite wB_value in *. destruct H as [H|H].
  - rewrite Z.mod_small; lia.
  - replace (to_Z m + to_Z c) with (to_Z m + to_Z c - 9223372036854775808 + 1 * 9223372036854775808) by lia.
    rewrite Z.mod_add by lia. rewrite Z.mod_small; lia.
Qed.
Lemma limit_small margin ka kb : sound margin = true -> to_Z (limit margin ka kb) <= 4096.
Proof.
  intro S. unfold limit. apply shifted; [exact S|].
  repeat match goal with |- context [if ?c then _ else _] => destruct c end; split; discriminate.
Qed.
Lemma bonded_limit_small margin ka kb : sound margin = true -> to_Z (bonded_limit margin ka kb) <= 4096.
Proof.
  intro S. unfold bonded_limit. apply shifted; [exact S|].
  repeat match goal with |- context [if ?c then _ else _] => destruct c end; split; discriminate.
Qed.
Lemma angle_limit_small margin ka kb : sound margin = true -> to_Z (angle_limit margin ka kb) <= 4096.
Proof.
  intro S. unfold angle_limit. apply shifted; [exact S|].
  repeat match goal with |- context [if ?c then _ else _] => destruct c end; split; discriminate.
Qed.
Lemma nested (p q r s t u : bool) (P R S T U : Prop) :
  (p = true <-> P) -> (r = true <-> R) -> (s = true <-> S) -> (t = true <-> T) -> (u = true <-> U) ->
  ((if p then if q then if (if r then s else true) then if t then u else true else false else false else false) = true
   <-> q = true /\ P /\ (R -> S) /\ (T -> U)).
Proof.
  intros [P1 P2] [R1 R2] [S1 S2] [T1 T2] [U1 U2]. split.
  - intro H. destruct p, q; try discriminate. destruct r, s, t, u; try discriminate; auto 8.
  - intros [-> [K [R' T']]]. rewrite (P2 K).
    destruct r; [rewrite (S2 (R' (R1 eq_refl)))|]; (destruct t; [rewrite (U2 (T' (T1 eq_refl)))|]); reflexivity.
Qed.
Lemma clashing_spec margin B a b : small a = true -> small b = true -> sound margin = true ->
  (clashing_b margin (graph B) a b = true <-> clashing margin B a b).
Proof.
  intros Sa Sb M. apply small_spec in Sa, Sb. destruct Sa as [? [? ?]], Sb as [? [? ?]].
  pose proof (limit_small margin (kind a) (kind b) M) as L.
  pose proof (bonded_limit_small margin (kind a) (kind b) M) as L'.
  pose proof (angle_limit_small margin (kind a) (kind b) M) as L''. unfold clashing_b, clashing. cbv zeta.
  pose proof (squared_below_spec (dist2 (px a) (py a) (pz a) (px b) (py b) (pz b)) _ L) as D.
  pose proof (squared_below_spec (dist2 (px a) (py a) (pz a) (px b) (py b) (pz b)) _ L') as D'.
  pose proof (squared_below_spec (dist2 (px a) (py a) (pz a) (px b) (py b) (pz b)) _ L'') as D''.
  rewrite dist2_spec in D, D', D'' by assumption.
  change (sq (to_Z (px a) - to_Z (px b)) + sq (to_Z (py a) - to_Z (py b)) + sq (to_Z (pz a) - to_Z (pz b)))
    with (D2 a b) in D, D', D''.
  exact (nested _ _ _ _ _ _ _ _ _ _ _ D (bonded_spec B (id a) (id b)) D' (two_apart_spec B (id a) (id b)) D'').
Qed.

Definition pairs_of (l : list (int * int)) := sort_by (fun p : int * int => digits 20 (fst p)) l.
Definition listed (m : PM.t (list (int * int))) (i j : int) : bool :=
  existsb (fun p => (fst p =? i) && (snd p =? j))%uint63 (look (digits 20 i) m).
Lemma listed_spec l i j : listed (pairs_of l) i j = true -> In (i, j) l.
Proof.
  unfold listed. rewrite existsb_exists. intros [[u v] [H E]]. apply andb_true_iff in E. destruct E as [E F].
  cbn [fst snd] in E, F. apply eqb_spec in E, F. subst. eapply sorted_sound; eauto.
Qed.

Lemma below_cell d l : d < sq (to_Z l) -> to_Z l <= 4096 -> d < 16777216.
Proof. pose proof (to_Z_bounded l). unfold sq. nia. Qed.
Definition check_clashes margin atoms bonds found : bool :=
  let cells := sort_by (key_of cell_key) atoms in
  let g := graph bonds in
  let m := pairs_of found in
  let t := by_number atoms in
  sound margin && forallb small atoms
  && forallb (fun a => near cell_key cells (fun b =>
       if (id a <? id b)%uint63
       then if clashing_b margin g a b then listed m (id a) (id b) else true
       else true) (px a) (py a) (pz a)) atoms
  && forallb (fun p => match atom_at t (fst p), atom_at t (snd p) with
       | Some a, Some b => clashing_b margin g a b
       | _, _ => false end) found.

(** The list is complete, and every entry of it is a clash. *)
Theorem clashes_exact margin atoms bonds found : check_clashes margin atoms bonds found = true ->
  (forall a b, In a atoms -> In b atoms -> to_Z (id a) < to_Z (id b) -> clashing margin bonds a b ->
     In (id a, id b) found)
  /\ (forall i j, In (i, j) found -> exists a b,
     In a atoms /\ In b atoms /\ id a = i /\ id b = j /\ clashing margin bonds a b).
Proof.
  unfold check_clashes. rewrite !andb_true_iff, !forallb_forall. intros [[[M S] N] F]. split.
  - intros a b Ha Hb I C. specialize (N a Ha).
    assert (Near : D2 a b < 16777216).
    { destruct C as [_ [D _]]. apply (below_cell _ _ D). now apply limit_small. }
    pose proof (near_sees_all cell_key atoms _ _ _ _ b N Hb Near) as P. cbv beta in P.
    apply ltb_spec in I. rewrite I in P.
    apply (clashing_spec margin bonds a b (S a Ha) (S b Hb) M) in C. rewrite C in P. now apply listed_spec.
  - intros i j H. specialize (F _ H). cbn [fst snd] in F.
    destruct (atom_at (by_number atoms) i) as [a|] eqn:A; [|discriminate].
    destruct (atom_at (by_number atoms) j) as [b|] eqn:B; [|discriminate].
    apply atom_at_spec in A, B. destruct A as [Ia Ea], B as [Ib Eb].
    exists a, b. do 4 (split; [assumption|]). exact (proj1 (clashing_spec margin bonds a b (S a Ia) (S b Ib) M) F).
Qed.

(** The second half alone, for a stricter margin: entries that are clashes whatever the rounding. *)
Definition check_found margin atoms bonds found : bool :=
  let g := graph bonds in let t := by_number atoms in
  sound margin && forallb (fun p => match atom_at t (fst p), atom_at t (snd p) with
    | Some a, Some b => small a && small b && clashing_b margin g a b
    | _, _ => false end) found.
Theorem clashes_sure margin atoms bonds found : check_found margin atoms bonds found = true ->
  forall i j, In (i, j) found -> exists a b,
    In a atoms /\ In b atoms /\ id a = i /\ id b = j /\ clashing margin bonds a b.
Proof.
  unfold check_found. rewrite !andb_true_iff, !forallb_forall. intros [M F] i j H.
  specialize (F _ H). cbn [fst snd] in F.
  destruct (atom_at (by_number atoms) i) as [a|] eqn:A; [|discriminate].
  destruct (atom_at (by_number atoms) j) as [b|] eqn:B; [|discriminate].
  apply atom_at_spec in A, B. destruct A as [Ia Ea], B as [Ib Eb]. rewrite !andb_true_iff in F.
  destruct F as [[Sa Sb] F]. exists a, b. do 4 (split; [assumption|]).
  exact (proj1 (clashing_spec margin bonds a b Sa Sb M) F).
Qed.
