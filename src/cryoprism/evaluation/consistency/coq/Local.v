(** Rules about two or four atoms each, about numbers in a row, and about the voxels of a map. *)
From Coq Require Import ZArith List Lia Bool Uint63.
From CryoPrism Require Import Points.
Import ListNotations.
Open Scope Z_scope.

(** ** Which obligations of a list fail; both answers are proofs *)
Section Rule.
Context {T : Type}.
Variable value : T -> option bool. (* None: an atom that is named is not there *)
Fixpoint failing (n : Z) (l : list T) : list Z :=
  match l with
  | [] => []
  | q :: r => match value q with Some true => failing (n + 1) r | _ => n :: failing (n + 1) r end
  end.
Fixpoint same (l m : list Z) : bool :=
  match l, m with [], [] => true | a :: l, b :: m => (a =? b) && same l m | _, _ => false end.
Definition defined q := match value q with Some _ => true | None => false end.
Definition check_rule (l : list T) (found : list Z) : bool := forallb defined l && same (failing 0 l) found.
Lemma same_spec l : forall m, same l m = true -> l = m.
Proof.
  induction l as [|a l IH]; destruct m; simpl; intro H; try easy. apply andb_true_iff in H. destruct H as [A B].
  apply Z.eqb_eq in A. subst. f_equal. auto.
Qed.
Lemma failing_from n l : forall k, In k (failing n l) -> n <= k.
Proof.
  revert n. induction l as [|q r IH]; simpl; intros n k H; [easy|].
  destruct (value q) as [[]|]; [apply IH in H; lia| |]; destruct H as [->|H]; try lia; apply IH in H; lia.
Qed.
Lemma failing_spec l : forall n k q, nth_error l k = Some q ->
  (In (n + Z.of_nat k) (failing n l) <-> value q <> Some true).
Proof.
  induction l as [|p r IH]; intros n k q H; [destruct k; discriminate|]. destruct k as [|k]; simpl in H.
  - injection H as ->. rewrite Z.add_0_r. simpl. destruct (value q) as [[]|] eqn:V; simpl.
    + split; [|congruence]. intro I. apply failing_from in I. lia.
    + split; auto. congruence.
    + split; auto. congruence.
  - replace (n + Z.of_nat (S k)) with (n + 1 + Z.of_nat k) by lia. rewrite <- (IH (n + 1) k q H). simpl.
    destruct (value p) as [[]|]; simpl; intuition lia.
Qed.
Theorem rule_exact l found : check_rule l found = true -> forall k q, nth_error l k = Some q ->
  (In (Z.of_nat k) found -> value q = Some false) /\ (~ In (Z.of_nat k) found -> value q = Some true).
Proof.
  unfold check_rule. rewrite andb_true_iff, forallb_forall. intros [D S] k q H. apply same_spec in S. subst found.
  pose proof (failing_spec l 0 k q H) as F. simpl Z.add in F.
  assert (I : In q l) by (eapply nth_error_In; eauto). specialize (D q I). unfold defined in D.
  destruct (value q) as [[]|]; [| |discriminate]; split; intro G; auto.
  - apply F in G. congruence.
  - exfalso. apply G. apply F. congruence.
Qed.
End Rule.

(** ** Distances within a range: bonds, chains, contacts of ligands *)
Record pair := Pair { first : int; second : int; least : Z; most : Z }.
Definition pair_value (t : PM.t (list atom)) (slack : Z) (q : pair) : option bool :=
  match atom_at t (first q), atom_at t (second q) with
  | Some a, Some b => let d := measured a b in Some ((sq (least q + slack) <=? d) && (d <=? sq (most q - slack)))
  | _, _ => None
  end.
Theorem distances_exact atoms slack (l : list pair) found :
  check_rule (pair_value (by_number atoms) slack) l found = true -> forall k q, nth_error l k = Some q ->
  exists a b, In a atoms /\ In b atoms /\ id a = first q /\ id b = second q /\
    (In (Z.of_nat k) found <-> ~ (sq (least q + slack) <= D2 a b <= sq (most q - slack))).
Proof.
  intros C k q H. destruct (rule_exact _ _ _ C k q H) as [F G].
  destruct (in_dec Z.eq_dec (Z.of_nat k) found) as [I|I]; [specialize (F I)|specialize (G I); clear F; rename G into F];
    unfold pair_value in F;
    destruct (atom_at _ (first q)) as [a|] eqn:A; try discriminate;
    destruct (atom_at _ (second q)) as [b|] eqn:B; try discriminate;
    apply atom_at_spec in A, B; exists a, b; injection F as F;
    rewrite measured_spec, ?andb_false_iff, ?andb_true_iff, ?Z.leb_gt, ?Z.leb_le in F; repeat split; try tauto;
    intros; lia || tauto.
Qed.

(** ** Handedness: the volume spanned at a centre, 10^-9 Å³, positive or negative; and cis or trans *)
Record vector := Vector { vx : Z; vy : Z; vz : Z }.
Definition from a b := Vector (X b - X a) (Y b - Y a) (W b - W a).
Definition cross u v :=
  Vector (vy u * vz v - vz u * vy v) (vz u * vx v - vx u * vz v) (vx u * vy v - vy u * vx v).
Definition dot u v := vx u * vx v + vy u * vy v + vz u * vz v.
Definition volume a b c d := dot (cross (from a b) (from a c)) (from a d).
(** Positive where the dihedral angle of the four is below 90° (cis), negative where it is above (trans). *)
Definition side a b c d := dot (cross (from a b) (from b c)) (cross (from b c) (from c d)).
Record four := Four { q1 : int; q2 : int; q3 : int; q4 : int; low_end : Z; high_end : Z }.
Definition four_value (f : atom -> atom -> atom -> atom -> Z) (t : PM.t (list atom)) (q : four) : option bool :=
  match atom_at t (q1 q), atom_at t (q2 q), atom_at t (q3 q), atom_at t (q4 q) with
  | Some a, Some b, Some c, Some d => let v := f a b c d in Some ((low_end q <=? v) && (v <=? high_end q))
  | _, _, _, _ => None
  end.
Theorem fours_exact f atoms (l : list four) found :
  check_rule (four_value f (by_number atoms)) l found = true -> forall k q, nth_error l k = Some q ->
  exists a b c d, In a atoms /\ In b atoms /\ In c atoms /\ In d atoms /\
    id a = q1 q /\ id b = q2 q /\ id c = q3 q /\ id d = q4 q /\
    (In (Z.of_nat k) found <-> ~ (low_end q <= f a b c d <= high_end q)).
Proof.
  intros C k q H. destruct (rule_exact _ _ _ C k q H) as [F G].
  destruct (in_dec Z.eq_dec (Z.of_nat k) found) as [I|I]; [specialize (F I)|specialize (G I); clear F; rename G into F];
    unfold four_value in F;
    destruct (atom_at _ (q1 q)) as [a|] eqn:A; try discriminate;
    destruct (atom_at _ (q2 q)) as [b|] eqn:B; try discriminate;
    destruct (atom_at _ (q3 q)) as [c|] eqn:E; try discriminate;
    destruct (atom_at _ (q4 q)) as [d|] eqn:K; try discriminate;
    apply atom_at_spec in A, B, E, K; exists a, b, c, d; injection F as F;
    rewrite ?andb_false_iff, ?andb_true_iff, ?Z.leb_gt, ?Z.leb_le in F; repeat split; try tauto; intros; lia || tauto.
Qed.

(** The same with coordinates that are read sooner. *)
Definition from_quickly a b :=
  Vector (value (px b) - value (px a)) (value (py b) - value (py a)) (value (pz b) - value (pz a)).
Lemma from_quickly_spec a b : from_quickly a b = from a b.
Proof. unfold from_quickly, from, X, Y, W. now rewrite !value_spec. Qed.
Definition volume_quickly a b c d := dot (cross (from_quickly a b) (from_quickly a c)) (from_quickly a d).
Definition side_quickly a b c d :=
  let v := from_quickly b c in dot (cross (from_quickly a b) v) (cross v (from_quickly c d)).
Theorem volumes_exact atoms (l : list four) found :
  check_rule (four_value volume_quickly (by_number atoms)) l found = true -> forall k q, nth_error l k = Some q ->
  exists a b c d, In a atoms /\ In b atoms /\ In c atoms /\ In d atoms /\
    id a = q1 q /\ id b = q2 q /\ id c = q3 q /\ id d = q4 q /\
    (In (Z.of_nat k) found <-> ~ (low_end q <= volume a b c d <= high_end q)).
Proof.
  intros C k q H. destruct (fours_exact _ _ _ _ C k q H) as [a [b [c [d E]]]].
  unfold volume_quickly in E. rewrite !from_quickly_spec in E. exists a, b, c, d. exact E.
Qed.
Theorem sides_exact atoms (l : list four) found :
  check_rule (four_value side_quickly (by_number atoms)) l found = true -> forall k q, nth_error l k = Some q ->
  exists a b c d, In a atoms /\ In b atoms /\ In c atoms /\ In d atoms /\
    id a = q1 q /\ id b = q2 q /\ id c = q3 q /\ id d = q4 q /\
    (In (Z.of_nat k) found <-> ~ (low_end q <= side a b c d <= high_end q)).
Proof.
  intros C k q H. destruct (fours_exact _ _ _ _ C k q H) as [a [b [c [d E]]]].
  unfold side_quickly in E. cbv zeta in E. rewrite !from_quickly_spec in E. exists a, b, c, d. exact E.
Qed.

(** ** Numbers: [Less] has to grow, [Equal] has to agree with what is declared *)
Inductive numbers := Less (a b : Z) | Equal (a b : Z).
Definition numbers_value q := Some (match q with Less a b => a <? b | Equal a b => a =? b end).
Definition numbers_hold q := match q with Less a b => a < b | Equal a b => a = b end.
Theorem numbers_exact (l : list numbers) found : check_rule numbers_value l found = true ->
  forall k q, nth_error l k = Some q -> (In (Z.of_nat k) found <-> ~ numbers_hold q).
Proof.
  intros C k q H. destruct (rule_exact _ _ _ C k q H) as [F G].
  destruct (in_dec Z.eq_dec (Z.of_nat k) found) as [I|I]; [specialize (F I)|specialize (G I); clear F; rename G into F];
    unfold numbers_value in F; destruct q; injection F as F; simpl;
    rewrite ?Z.ltb_lt, ?Z.ltb_ge, ?Z.eqb_eq, ?Z.eqb_neq in F; split; intros; tauto || lia.
Qed.

(** ** The voxel that holds an atom, voxel size and origin in units of 2^-20 * 0.001 Å *)
Record grid := Grid { voxel : Z; ox : Z; oy : Z; oz : Z }.
Definition index (size origin p : Z) := (p * 1048576 - origin) / size.
Definition box_of (g : grid) a := (index (voxel g) (ox g) (X a), index (voxel g) (oy g) (Y a), index (voxel g) (oz g) (W a)).
Definition voxel_key (v : Z * Z * Z) : positive := match v with (i, j, k) => Z.to_pos ((i * 4096 + j) * 4096 + k) end.
Definition same_voxel (v w : Z * Z * Z) : bool :=
  match v, w with (i, j, k), (i', j', k') => (i =? i') && (j =? j') && (k =? k') end.
Definition occupied (m : PM.t (list (Z * Z * Z))) v : bool := existsb (same_voxel v) (look (voxel_key v) m).
Lemma same_voxel_spec v w : same_voxel v w = true <-> v = w.
Proof.
  destruct v as [[i j] k], w as [[i' j'] k']. unfold same_voxel. rewrite !andb_true_iff, !Z.eqb_eq.
  split; [intros [[-> ->] ->]; reflexivity | intro E; injection E; auto].
Qed.
Lemma occupied_spec l v : occupied (sort_by voxel_key l) v = true <-> In v l.
Proof.
  unfold occupied. rewrite existsb_exists. split.
  - intros [w [H E]]. apply same_voxel_spec in E. subst w. eapply sorted_sound; eauto.
  - intro H. exists v. split; [now apply sorted_complete | now apply same_voxel_spec].
Qed.
Definition inside_value g m (a : atom) : option bool := Some (occupied m (box_of g a)).
Theorem inside_exact g voxels (atoms : list atom) found :
  check_rule (inside_value g (sort_by voxel_key voxels)) atoms found = true ->
  forall k a, nth_error atoms k = Some a -> (In (Z.of_nat k) found <-> ~ In (box_of g a) voxels).
Proof.
  intros C k a H. destruct (rule_exact _ _ _ C k a H) as [F G]. rewrite <- occupied_spec. unfold inside_value in *.
  destruct (in_dec Z.eq_dec (Z.of_nat k) found) as [I|I]; [specialize (F I)|specialize (G I)]; split; intros; try tauto;
    congruence.
Qed.
