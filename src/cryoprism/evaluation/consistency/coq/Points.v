(** Atoms on a grid of 0.001 Å, their distances, and a cell list that finds every close pair.

    Coordinates are machine integers (Coq.Numbers.Cyclic.Int63.Uint63) for speed; all statements are about the
    integers of Z that they stand for. *)
From Coq Require Import ZArith List Lia Bool Uint63 FMapPositive.
Import ListNotations.
Open Scope Z_scope.
Module PM := PositiveMap.

Record atom := Atom {
  id : int;    (* number in the file, from 0 *)
  res : int;   (* number of its residue, from 0 *)
  kind : int;  (* 0 heavy, 1 hydrogen acceptor, 2 metal, 3 hydrogen, 4 water *)
  alt : int;   (* alternative location: 0 none, 1 the first letter … *)
  occ : int;   (* occupancy in thousandths *)
  px : int; py : int; pz : int (* 0.001 Å, from the corner of the box *)
}.
Definition X a := to_Z (px a).
Definition Y a := to_Z (py a).
Definition W a := to_Z (pz a).
Definition sq (u : Z) := u * u.
(** Squared distance, in 0.000001 Å². *)
Definition D2 a b := sq (X a - X b) + sq (Y a - Y b) + sq (W a - W b).

(** Two machine integers an atom: x, y, z of 21 bits each; residue, kind, alternative location, occupancy. *)
Definition decode (i w m : int) : atom :=
  (Atom i (m >> 32) ((m >> 24) land 255) ((m >> 16) land 255) (m land 65535)
        (w >> 42) ((w >> 21) land 2097151) (w land 2097151))%uint63.
Fixpoint decode_all (i : int) (l : list int) : list atom :=
  match l with w :: m :: r => decode i w m :: decode_all (i + 1)%uint63 r | _ => [] end.

(** Sixteen machine integers a constructor: Coq reads them three times as fast as lists. *)
Inductive block :=
  | Stop
  | Block (a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11 a12 a13 a14 a15 : int) (rest : block).
Fixpoint unpacked (b : block) : list int :=
  match b with
  | Stop => []
  | Block a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11 a12 a13 a14 a15 r =>
      a0 :: a1 :: a2 :: a3 :: a4 :: a5 :: a6 :: a7 :: a8 :: a9 :: a10 :: a11 :: a12 :: a13 :: a14 :: a15 :: unpacked r
  end.

Lemma wB_value : wB = 9223372036854775808. Proof. reflexivity. Qed.
Lemma sq_pos u : 0 <= sq u. Proof. unfold sq; nia. Qed.

(** ** Differences and squares of machine integers do not overflow *)
Definition size := 2097152.
Definition square_of (p q : int) : int := (let u := p - q in u * u)%uint63.
Lemma square_below u n : - n < u < n -> 0 <= u * u < n * n. Proof. nia. Qed.
Lemma square_bound p q : to_Z p < size -> to_Z q < size -> 0 <= sq (to_Z p - to_Z q) < 4398046511104.
Proof.
  intros. pose proof (to_Z_bounded p). pose proof (to_Z_bounded q). unfold sq.
  apply (square_below (to_Z p - to_Z q) 2097152). unfold size in *. lia.
Qed.
Lemma square_of_spec p q : to_Z p < size -> to_Z q < size -> to_Z (square_of p q) = sq (to_Z p - to_Z q).
Proof.
  intros Hp Hq. pose proof (square_bound p q Hp Hq). unfold square_of. rewrite mul_spec, sub_spec.
  rewrite <- Zmult_mod. apply Z.mod_small. rewrite wB_value. unfold sq in *. lia.
Qed.
Definition dist2 (x y z x' y' z' : int) : int :=
  (square_of x x' + square_of y y' + square_of z z')%uint63.
Lemma dist2_spec x y z x' y' z' :
  to_Z x < size -> to_Z y < size -> to_Z z < size -> to_Z x' < size -> to_Z y' < size -> to_Z z' < size ->
  to_Z (dist2 x y z x' y' z') = sq (to_Z x - to_Z x') + sq (to_Z y - to_Z y') + sq (to_Z z - to_Z z').
Proof.
  intros. unfold dist2. rewrite !add_spec, !square_of_spec by assumption.
  pose proof (square_bound x x'). pose proof (square_bound y y'). pose proof (square_bound z z').
  rewrite Zplus_mod_idemp_l. apply Z.mod_small. rewrite wB_value. lia.
Qed.

Definition small (a : atom) : bool := ((px a <? 2097152) && (py a <? 2097152) && (pz a <? 2097152))%uint63.
Lemma small_spec a : small a = true -> to_Z (px a) < size /\ to_Z (py a) < size /\ to_Z (pz a) < size.
Proof.
  unfold small, size. rewrite !andb_true_iff, !ltb_spec. intros [[A B] C].
  change (to_Z 2097152) with 2097152 in *. auto.
Qed.

(** The same number as [to_Z] gives, sooner: it stops after the bits that there are. *)
Fixpoint quick (n : nat) (p : int) : Z :=
  match n with
  | O => 0
  | S n => let z := quick n (p >> 1)%uint63 in if is_even p then Z.double z else Z.succ_double z
  end.
Lemma quick_spec n : forall p, to_Z p < 2 ^ Z.of_nat n -> quick n p = to_Z p.
Proof.
  induction n as [|n IH]; intros p H; cbn [quick].
  - pose proof (to_Z_bounded p). change (2 ^ Z.of_nat 0) with 1 in H. lia.
  - assert (E : to_Z (p >> 1)%uint63 = to_Z p / 2) by (rewrite lsr_spec; reflexivity).
    pose proof (Z.div_mod (to_Z p) 2 ltac:(lia)) as D. rewrite Nat2Z.inj_succ, Z.pow_succ_r in H by lia.
    rewrite IH by (rewrite E; apply Z.div_lt_upper_bound; lia).
    pose proof (is_even_spec p) as V. destruct (is_even p); rewrite ?Z.double_spec, ?Z.succ_double_spec, E; lia.
Qed.
Definition value (p : int) : Z := if (p <? 2097152)%uint63 then quick 21 p else to_Z p.
Lemma value_spec p : value p = to_Z p.
Proof.
  unfold value. destruct (p <? 2097152)%uint63 eqn:E; [|reflexivity]. apply ltb_spec in E.
  change (to_Z 2097152) with 2097152 in E. apply quick_spec. change (2 ^ Z.of_nat 21) with 2097152. exact E.
Qed.
Definition measured (a b : atom) : Z :=
  if small a && small b then to_Z (dist2 (px a) (py a) (pz a) (px b) (py b) (pz b)) else D2 a b.
Lemma measured_spec a b : measured a b = D2 a b.
Proof.
  unfold measured. destruct (small a && small b) eqn:E; [|reflexivity]. apply andb_true_iff in E.
  destruct E as [A B]. apply small_spec in A, B. destruct A as [? [? ?]], B as [? [? ?]].
  rewrite dist2_spec by assumption. reflexivity.
Qed.

(** ** Cells of 4.096 Å; cells that share a key are harmless *)
Fixpoint digits (n : nat) (i : int) : positive :=
  match n with
  | O => xH
  | S n => (if is_even i then xO else xI) (digits n (i >> 1)%uint63)
  end.
Definition cell_key (i j k : int) : positive := digits 18 ((i << 12) + (j << 6) + k)%uint63.
Definition cell (p : int) : int := (p >> 12)%uint63.
Definition look {T} (k : positive) (m : PM.t (list T)) : list T :=
  match PM.find k m with Some l => l | None => [] end.
Definition push {T} (k : positive) (v : T) (m : PM.t (list T)) : PM.t (list T) := PM.add k (v :: look k m) m.
(** Everything that [f] gives a key to, by that key. *)
Definition sort_by {T} (f : T -> positive) (l : list T) : PM.t (list T) :=
  fold_left (fun m v => push (f v) v m) l (PM.empty _).

Lemma look_push {T} k k' (v : T) m : look k (push k' v m) = if Pos.eq_dec k k' then v :: look k m else look k m.
Proof.
  unfold look, push. destruct (Pos.eq_dec k k') as [->|n]; [now rewrite PM.gss | rewrite PM.gso; auto].
Qed.
Lemma sort_keeps {T} (f : T -> positive) l : forall m k v, In v (look k m) ->
  In v (look k (fold_left (fun m v => push (f v) v m) l m)).
Proof.
  induction l as [|a r IH]; simpl; intros m k v H; auto. apply IH. rewrite look_push. destruct Pos.eq_dec; simpl; auto.
Qed.
Lemma sort_complete {T} (f : T -> positive) l : forall m v, In v l ->
  In v (look (f v) (fold_left (fun m v => push (f v) v m) l m)).
Proof.
  induction l as [|a r IH]; simpl; intros m v H; [easy|]. destruct H as [->|H]; [|auto].
  apply sort_keeps. rewrite look_push. destruct Pos.eq_dec; [now left|easy].
Qed.
Lemma sort_sound {T} (f : T -> positive) l : forall m k v,
  In v (look k (fold_left (fun m v => push (f v) v m) l m)) -> In v l \/ In v (look k m).
Proof.
  induction l as [|a r IH]; simpl; intros m k v H; auto. apply IH in H. destruct H as [H|H]; auto.
  rewrite look_push in H. destruct Pos.eq_dec; simpl in H; intuition.
Qed.
Lemma sorted_complete {T} (f : T -> positive) l v : In v l -> In v (look (f v) (sort_by f l)).
Proof. apply sort_complete. Qed.
Lemma sorted_sound {T} (f : T -> positive) l k v : In v (look k (sort_by f l)) -> In v l.
Proof.
  intro H. apply sort_sound in H. destruct H as [H|H]; auto. unfold look in H. now rewrite PM.gempty in H.
Qed.

Section Cells.
Variable key : int -> int -> int -> positive. (* any: nothing depends on which *)
Definition key_of (a : atom) : positive := key (cell (px a)) (cell (py a)) (cell (pz a)).
Definition around : list int := (9223372036854775807 :: 0 :: 1 :: nil)%uint63.
Definition near (m : PM.t (list atom)) (f : atom -> bool) (x y z : int) : bool :=
  let i := cell x in let j := cell y in let k := cell z in
  forallb (fun di => forallb (fun dj => forallb (fun dk =>
    forallb f (look (key (i + di) (j + dj) (k + dk))%uint63 m)) around) around) around.

Lemma cell_value p : to_Z (cell p) = to_Z p / 4096.
Proof. unfold cell. rewrite lsr_spec. reflexivity. Qed.
Lemma close_in_one u : sq u < 16777216 -> -4096 < u < 4096. Proof. unfold sq; nia. Qed.
Lemma parts u v w n : 0 <= u -> 0 <= v -> 0 <= w -> u + v + w < n -> u < n /\ v < n /\ w < n. Proof. lia. Qed.
Lemma cells_touch p q : sq (to_Z p - to_Z q) < 16777216 -> exists d, In d around /\ (cell p + d)%uint63 = cell q.
Proof.
  intro H. apply close_in_one in H.
  pose proof (to_Z_bounded p) as Bp. pose proof (to_Z_bounded q) as Bq.
  assert (C : to_Z q / 4096 - to_Z p / 4096 = -1 \/ to_Z q / 4096 - to_Z p / 4096 = 0
              \/ to_Z q / 4096 - to_Z p / 4096 = 1).
  { pose proof (Z.div_mod (to_Z p) 4096 ltac:(lia)). pose proof (Z.mod_pos_bound (to_Z p) 4096 ltac:(lia)).
    pose proof (Z.div_mod (to_Z q) 4096 ltac:(lia)). pose proof (Z.mod_pos_bound (to_Z q) 4096 ltac:(lia)). lia. }
  pose proof (cell_value p) as Vp. pose proof (cell_value q) as Vq.
  pose proof (to_Z_bounded (cell p)) as Cp. pose proof (to_Z_bounded (cell q)) as Cq.
  rewrite wB_value in *. unfold around.
  assert (M : to_Z 9223372036854775807 = 9223372036854775807) by reflexivity.
  destruct C as [C|[C|C]];
    [exists 9223372036854775807%uint63 | exists 0%uint63 | exists 1%uint63]; (split; [simpl; auto|]);
    apply to_Z_inj; rewrite add_spec, wB_value; rewrite ?M; change (to_Z 0) with 0; change (to_Z 1) with 1.
  - replace (to_Z (cell p) + 9223372036854775807) with (to_Z (cell q) + 1 * 9223372036854775808) by lia.
    rewrite Z.mod_add by lia. apply Z.mod_small. lia.
  - rewrite Z.mod_small by lia. lia.
  - rewrite Z.mod_small by lia. lia.
Qed.

(** Whoever is nearer than 4.096 Å is looked at. *)
Theorem near_sees_all l f x y z b : near (sort_by key_of l) f x y z = true -> In b l ->
  sq (to_Z x - X b) + sq (to_Z y - Y b) + sq (to_Z z - W b) < 16777216 -> f b = true.
Proof.
  intros H Hb D. unfold X, Y, W in D.
  apply parts in D; try apply sq_pos. destruct D as [Dx [Dy Dz]].
  destruct (cells_touch _ _ Dx) as [dx [Ix Ex]].
  destruct (cells_touch _ _ Dy) as [dy [Iy Ey]].
  destruct (cells_touch _ _ Dz) as [dz [Iz Ez]].
  unfold near in H. rewrite forallb_forall in H. specialize (H _ Ix).
  rewrite forallb_forall in H. specialize (H _ Iy). rewrite forallb_forall in H. specialize (H _ Iz).
  rewrite forallb_forall in H. apply H. rewrite Ex, Ey, Ez.
  pose proof (sorted_complete key_of l b Hb) as Q. exact Q.
Qed.
End Cells.

(** ** Atoms by their number *)
Definition by_number (l : list atom) : PM.t (list atom) := sort_by (fun a => digits 20 (id a)) l.
Definition atom_at (t : PM.t (list atom)) (i : int) : option atom :=
  find (fun a => (id a =? i)%uint63) (look (digits 20 i) t).
Lemma atom_at_spec l i a : atom_at (by_number l) i = Some a -> In a l /\ id a = i.
Proof.
  intro H. apply find_some in H. destruct H as [H E]. split; [eapply sorted_sound; eauto|]. now apply eqb_spec.
Qed.

(** The number of a decoded atom is its place, and so no two have one number. *)
Lemma decoded_number : forall l i k a, nth_error (decode_all i l) k = Some a ->
  to_Z (id a) = (to_Z i + Z.of_nat k) mod wB.
Proof.
  fix IH 1. intros [|w [|m r]] i k a H; try (destruct k; discriminate). destruct k as [|k]; cbn [decode_all nth_error] in H.
  - injection H as <-. cbn [id decode Z.of_nat]. rewrite Z.add_0_r. symmetry. apply Z.mod_small. apply to_Z_bounded.
  - apply IH in H. rewrite H, add_spec, Zplus_mod_idemp_l. f_equal. change (to_Z 1) with 1. lia.
Qed.
Definition atoms_claim (packed : list int) (atoms : list atom) : Prop :=
  atoms = decode_all 0 packed /\ (Z.of_nat (length atoms) <= wB ->
    (forall k a, nth_error atoms k = Some a -> to_Z (id a) = Z.of_nat k)
    /\ (forall a b, In a atoms -> In b atoms -> id a = id b -> a = b)).
Theorem atoms_numbered packed : atoms_claim packed (decode_all 0 packed).
Proof.
  split; [reflexivity|]. intro S.
  assert (N : forall k a, nth_error (decode_all 0 packed) k = Some a -> to_Z (id a) = Z.of_nat k).
  { intros k a H. pose proof (decoded_number _ _ _ _ H) as E. rewrite E. change (to_Z 0) with 0.
    assert (L : (k < length (decode_all 0 packed))%nat) by (apply nth_error_Some; congruence).
    apply Z.mod_small. lia. }
  split; [exact N|]. intros a b A B E. apply In_nth_error in A, B. destruct A as [i A], B as [j B].
  pose proof (N i a A) as P. pose proof (N j b B) as Q. rewrite E in P.
  assert (i = j) by lia. subst j. congruence.
Qed.

(** ** Bonds *)
Definition bonded (B : list (int * int)) i j := In (i, j) B \/ In (j, i) B.
(** Joined to one and the same atom: such a pair spans an angle. *)
Definition two_apart B i j := exists k, bonded B i k /\ bonded B k j.
Definition both_ways (B : list (int * int)) := flat_map (fun p => [p; (snd p, fst p)]) B.
Definition graph (B : list (int * int)) := sort_by (fun p : int * int => digits 20 (fst p)) (both_ways B).
Definition neighbours (g : PM.t (list (int * int))) (i : int) : list int :=
  map snd (filter (fun p => (fst p =? i)%uint63) (look (digits 20 i) g)).
Lemma both_ways_spec B i j : In (i, j) (both_ways B) <-> bonded B i j.
Proof.
  unfold both_ways, bonded. rewrite in_flat_map. split.
  - intros [[u v] [H [E|[E|[]]]]]; simpl in E; injection E; intros; subst; auto.
  - intros [H|H]; [exists (i, j)|exists (j, i)]; simpl; auto.
Qed.
Lemma neighbours_spec B i j : In j (neighbours (graph B) i) <-> bonded B i j.
Proof.
  unfold neighbours. rewrite in_map_iff. split.
  - intros [[u v] [E H]]. simpl in E. subst v. apply filter_In in H. destruct H as [H F]. simpl in F.
    apply eqb_spec in F. subst u. apply sorted_sound in H. now apply both_ways_spec.
  - intro H. exists (i, j). split; [reflexivity|]. apply filter_In. split; [|apply eqb_spec; reflexivity].
    apply both_ways_spec in H. exact (sorted_complete (fun p : int * int => digits 20 (fst p)) _ _ H).
Qed.
Definition among (j : int) (l : list int) : bool := existsb (fun k => (k =? j)%uint63) l.
Lemma among_spec j l : among j l = true <-> In j l.
Proof.
  unfold among. rewrite existsb_exists. split.
  - intros [k [H E]]. apply eqb_spec in E. now subst.
  - intro H. exists j. split; auto. apply eqb_spec; reflexivity.
Qed.
Definition bonded_b g i j : bool := among j (neighbours g i).
Lemma bonded_spec B i j : bonded_b (graph B) i j = true <-> bonded B i j.
Proof. unfold bonded_b. now rewrite among_spec, neighbours_spec. Qed.
Definition two_apart_b g i j : bool := existsb (fun k => among j (neighbours g k)) (neighbours g i).
Lemma two_apart_spec B i j : two_apart_b (graph B) i j = true <-> two_apart B i j.
Proof.
  unfold two_apart_b, two_apart. rewrite existsb_exists. split; intros [k [H K]]; exists k;
    rewrite among_spec, !neighbours_spec in *; auto.
Qed.
