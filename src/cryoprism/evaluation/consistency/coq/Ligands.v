(** Ligands touch something: an atom within 4.5 Å of another residue or of a symmetry copy, that is no water. *)
From Coq Require Import ZArith List Lia Bool Uint63.
From CryoPrism Require Import Points Copies Mates.
Import ListNotations.
Open Scope Z_scope.

Definition reach := 4500.
(** [b] counts as a partner of an atom of residue [r], seen from copy [n] (0: the model itself). *)
Definition partner (n r : int) (b : atom) : bool :=
  (negb (kind b =? 4) && (negb (n =? 0) || negb (res b =? r)))%uint63.
Record touch := Touch { ligand : int; copy : int; mine : int; other : int }.
Definition touch_b t (ops : list (int * op)) slack (q : touch) : bool :=
  match copy_at ops (copy q), atom_at t (mine q), atom_at t (other q) with
  | Some p, Some a, Some b =>
      (res a =? ligand q)%uint63 && partner (copy q) (ligand q) b && related (snd p) a b && (E2 (snd p) a b <=? sq (reach - slack))
  | _, _, _ => false
  end.
Definition alone_b (ops : list (int * op)) (atoms : list atom) slack (r : int) : bool :=
  forallb (fun a => if (res a =? r)%uint63 then
    forallb (fun p => forallb (fun b =>
      if partner (fst p) r b then if related (snd p) a b then sq (reach + slack) <? E2 (snd p) a b else true else true)
      atoms) ops else true) atoms.
Definition check_ligands atoms ops slack touches alone : bool :=
  forallb (touch_b (by_number atoms) ops slack) touches && forallb (alone_b ops atoms slack) alone.
Theorem ligands_exact atoms ops slack touches alone : check_ligands atoms ops slack touches alone = true ->
  (forall q, In q touches -> exists o a b, In (copy q, o) ops /\ In a atoms /\ In b atoms /\ res a = ligand q /\
     partner (copy q) (ligand q) b = true /\ related o a b = true /\ E2 o a b <= sq (reach - slack))
  /\ (forall r n o a b, In r alone -> In (n, o) ops -> In a atoms -> In b atoms -> res a = r ->
     partner n r b = true -> related o a b = true -> sq (reach + slack) < E2 o a b).
Proof.
  unfold check_ligands. rewrite andb_true_iff, !forallb_forall. intros [T A]. split.
  - intros q H. specialize (T q H). unfold touch_b in T.
    destruct (copy_at ops (copy q)) as [[n o]|] eqn:O; [|discriminate].
    destruct (atom_at (by_number atoms) (mine q)) as [a|] eqn:U; [|discriminate].
    destruct (atom_at (by_number atoms) (other q)) as [b|] eqn:V; [|discriminate].
    apply atom_at_spec in U, V. apply find_some in O. destruct O as [O E]. cbn [fst snd] in *. apply eqb_spec in E.
    subst n. rewrite !andb_true_iff, Z.leb_le, eqb_spec in T. exists o, a, b. tauto.
  - intros r n o a b Hr Ho Ha Hb R P K. specialize (A r Hr). unfold alone_b in A. rewrite forallb_forall in A.
    specialize (A a Ha). apply eqb_spec in R. rewrite R in A. rewrite forallb_forall in A. specialize (A _ Ho).
    rewrite forallb_forall in A. specialize (A b Hb). cbn [fst snd] in A. rewrite P, K in A. now apply Z.ltb_lt.
Qed.
