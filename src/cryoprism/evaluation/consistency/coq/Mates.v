(** Symmetry copies: a rotation in units of 2^-30 and a shift in units of 2^-30 * 0.001 Å, rounded down. *)
From Coq Require Import ZArith List Lia Bool Uint63.
From CryoPrism Require Import Points Copies.
Import ListNotations.
Open Scope Z_scope.

Record row := Row { r1 : Z; r2 : Z; r3 : Z; shift : Z }.
(** [sources] are moved and meet [targets]: first and last numbers of residues; an empty list is all of them. *)
Record op := Op { along_x : row; along_y : row; along_z : row; sources : list (int * int); targets : list (int * int) }.
Definition member (l : list (int * int)) (r : int) : bool :=
  match l with [] => true | _ => existsb (fun p => if (fst p <=? r)%uint63 then (r <=? snd p)%uint63 else false) l end.
Definition related o (a b : atom) : bool := if member (sources o) (res a) then member (targets o) (res b) else false.
Definition unit := 1073741824.
(** One coordinate of the copy: exact in units of 2^-30 * 0.001 Å, and rounded down to 0.001 Å. *)
Definition exact (r : row) a : Z := r1 r * X a + r2 r * Y a + r3 r * W a + shift r.
Definition copied r a : Z := exact r a / unit.
(** Squared distance between the copy of [a] and [b]. *)
Definition E2 o a b : Z :=
  sq (copied (along_x o) a - X b) + sq (copied (along_y o) a - Y b) + sq (copied (along_z o) a - W b).
(** Atoms in part of the copies may be absent where the copy is present, as in disorder about an axis: then the two
    need not be there at once, and it is not sure that they overlap. No occupancy is no absence: it counts as 1. *)
Definition share (a : atom) : int := (if occ a =? 0 then 1000 else occ a)%uint63.
Definition there_together (sure : bool) (a b : atom) : bool :=
  if there_at_once a b then if sure then (1010 <? share a + share b)%uint63 else true else false.
(** Bonds across copies ([joined]: operation, atom of the copy, atom of the model) may be as short as bonds are. Not
    meant: one atom on a symmetry element (nearer than 0.5 Å to its own copy). *)
Definition overlapping sure margin (joined : list (int * int * int)) n o (a b : atom) : Prop :=
  related o a b = true /\ there_together sure a b = true
  /\ E2 o a b < sq (to_Z (limit margin (kind a) (kind b)))
  /\ (In (n, id a, id b) joined -> E2 o a b < sq (to_Z (bonded_limit margin (kind a) (kind b))))
  /\ ~ (id a = id b /\ E2 o a b < 250000).

(** ** The same with machine integers *)
Record irow := Irow { i1 : int; i2 : int; i3 : int; ishift : int }.
Definition machine (r : row) := Irow (of_Z (r1 r)) (of_Z (r2 r)) (of_Z (r3 r)) (of_Z (shift r)).
Definition place (r : irow) (a : atom) : int := (i1 r * px a + i2 r * py a + i3 r * pz a + ishift r)%uint63.
Definition sane (r : row) : bool :=
  (Z.abs (r1 r) <=? 4294967296) && (Z.abs (r2 r) <=? 4294967296) && (Z.abs (r3 r) <=? 4294967296)
  && (Z.abs (shift r) <=? 1152921504606846976).
(** [z] and [i] agree modulo 2^63. *)
Definition stands (i : int) (z : Z) := to_Z i = z mod wB.
Lemma stands_add i j y z : stands i y -> stands j z -> stands (i + j)%uint63 (y + z).
Proof. unfold stands. intros A B. rewrite add_spec, A, B. symmetry. apply Zplus_mod. Qed.
Lemma stands_mul i j y z : stands i y -> stands j z -> stands (i * j)%uint63 (y * z).
Proof. unfold stands. intros A B. rewrite mul_spec, A, B. symmetry. apply Zmult_mod. Qed.
Lemma stands_itself i : stands i (to_Z i).
Proof. unfold stands. symmetry. apply Z.mod_small. apply to_Z_bounded. Qed.
Lemma stands_of z : stands (of_Z z) z.
Proof. unfold stands. apply of_Z_spec. Qed.
Lemma place_spec r a : stands (place (machine r) a) (exact r a).
Proof.
  unfold place, machine, exact, X, Y, W. cbn [i1 i2 i3 ishift].
  repeat apply stands_add; try apply stands_mul; apply stands_of || apply stands_itself.
Qed.
Lemma term r p : Z.abs r <= 4294967296 -> 0 <= p < size -> Z.abs (r * p) <= 9007199254740992.
Proof. unfold size. intros. rewrite Z.abs_mul. rewrite (Z.abs_eq p) by lia. nia. Qed.
Lemma exact_bound r a : sane r = true -> small a = true -> Z.abs (exact r a) <= 2000000000000000000.
Proof.
  unfold sane. rewrite !andb_true_iff, !Z.leb_le. intros [[[A B] C] D] S. apply small_spec in S.
  destruct S as [? [? ?]]. unfold exact, X, Y, W.
  pose proof (to_Z_bounded (px a)). pose proof (to_Z_bounded (py a)). pose proof (to_Z_bounded (pz a)).
  pose proof (term (r1 r) (to_Z (px a)) A ltac:(lia)). pose proof (term (r2 r) (to_Z (py a)) B ltac:(lia)).
  pose proof (term (r3 r) (to_Z (pz a)) C ltac:(lia)).
  set (u := r1 r * to_Z (px a)) in *. set (v := r2 r * to_Z (py a)) in *. set (w := r3 r * to_Z (pz a)) in *.
  clearbody u v w. lia.
Qed.
(** All atoms have low <= coordinate <= high; a copy further out than 4.096 Å touches none. *)
Record range := Range { low : int; high : int }.
Definition floor30 (u : int) : int := (u >> 30)%uint63.
Definition inside (g : range) (p : int) : bool := ((low g - 4096 <=? p) && (p <=? high g + 4096))%uint63.
Definition proper (g : range) : bool := ((4096 <=? low g) && (high g <=? 2093055))%uint63.
Definition within (g : range) (p : int) : bool := ((low g <=? p) && (p <=? high g))%uint63.
Lemma outside_is_far g r a (b : int) : proper g = true -> within g b = true -> sane r = true -> small a = true ->
  let p := floor30 (place (machine r) a) in
  (inside g p = true -> to_Z p = copied r a /\ to_Z p < size)
  /\ (inside g p = false -> 16777216 <= sq (copied r a - to_Z b)).
Proof.
  unfold proper, within, inside. rewrite !andb_true_iff, !leb_spec. intros [P Q] [L H] S A. cbv zeta.
  set (p := floor30 (place (machine r) a)).
  pose proof (exact_bound r a S A) as B. pose proof (place_spec r a) as E. unfold stands in E.
  assert (V : to_Z p = to_Z (place (machine r) a) / unit).
  { unfold p, floor30. rewrite lsr_spec. reflexivity. }
  assert (Lo : to_Z (low g - 4096)%uint63 = to_Z (low g) - 4096).
  { rewrite sub_spec. change (to_Z 4096) with 4096 in *. apply Z.mod_small. pose proof (to_Z_bounded (low g)). lia. }
  assert (Hi : to_Z (high g + 4096)%uint63 = to_Z (high g) + 4096).
  { rewrite add_spec. change (to_Z 4096) with 4096 in *. change (to_Z 2093055) with 2093055 in *.
    apply Z.mod_small. rewrite wB_value. pose proof (to_Z_bounded (high g)). lia. }
  change (to_Z 4096) with 4096 in *. change (to_Z 2093055) with 2093055 in *.
  pose proof (to_Z_bounded (low g)). rewrite wB_value in *. unfold copied. set (e := exact r a) in *. clearbody e.
  rewrite Lo, Hi. destruct (Z_lt_le_dec e 0) as [N|N].
  - assert (M : to_Z (place (machine r) a) = e + 9223372036854775808).
    { rewrite E. rewrite <- (Z.mod_add e 1) by lia. apply Z.mod_small. lia. }
    assert (Big : 4294967296 <= to_Z p).
    { rewrite V, M. unfold unit. apply Z.div_le_lower_bound; lia. }
    assert (Neg : e / unit < 0) by (apply Z.div_lt_upper_bound; unfold unit; lia).
    split; intro K; [exfalso; lia|]. unfold sq. nia.
  - assert (M : to_Z (place (machine r) a) = e) by (rewrite E; apply Z.mod_small; lia).
    rewrite M in V. split; intro K; [unfold size; lia|]. apply andb_false_iff in K. rewrite <- V.
    assert (to_Z p < to_Z (low g) - 4096 \/ to_Z (high g) + 4096 < to_Z p) as [F|F].
    { destruct K as [K|K]; [left|right]; apply Z.nle_gt; intro G; rewrite <- ?Lo, <- ?Hi in G; apply leb_spec in G;
        rewrite G in K; discriminate. }
    + unfold sq. nia.
    + unfold sq. nia.
Qed.

Definition bounds (gx gy gz : range) (a : atom) : bool := within gx (px a) && within gy (py a) && within gz (pz a).
Definition listed_copy (m : PM.t (list (int * int * int))) (n i j : int) : bool :=
  existsb (fun p => match p with (n', i', j') => (n' =? n) && (i' =? i) && (j' =? j) end)%uint63 (look (digits 20 i) m).
Definition copies_of (l : list (int * int * int)) := sort_by (fun p : int * int * int => digits 20 (snd (fst p))) l.
Lemma listed_copy_spec l n i j : listed_copy (copies_of l) n i j = true <-> In (n, i, j) l.
Proof.
  unfold listed_copy. rewrite existsb_exists. split.
  - intros [[[n' i'] j'] [H E]]. rewrite !andb_true_iff in E.
    destruct E as [[E F] G]. apply eqb_spec in E, F, G. subst. eapply sorted_sound; eauto.
  - intro H. exists (n, i, j). split; [|rewrite !andb_true_iff, !eqb_spec; auto].
    exact (sorted_complete (fun p : int * int * int => digits 20 (snd (fst p))) _ _ H).
Qed.
Definition overlapping_b (sure : bool) margin g n o (a b : atom) (x y z : int) : bool :=
  let d := dist2 x y z (px b) (py b) (pz b) in
  if squared_below d (limit margin (kind a) (kind b)) then
    if there_together sure a b then
      if member (targets o) (res b) then
        if (if listed_copy g n (id a) (id b) then squared_below d (bonded_limit margin (kind a) (kind b)) else true)
        then negb ((id a =? id b) && (d <? 250000))%uint63 else false
      else false
    else false
  else false.
Definition check_copy sure margin cells g m (gx gy gz : range) (n : int) (o : op) (atoms : list atom) : bool :=
  let rx := machine (along_x o) in let ry := machine (along_y o) in let rz := machine (along_z o) in
  sane (along_x o) && sane (along_y o) && sane (along_z o) && forallb (fun a => if member (sources o) (res a) then
    let x := floor30 (place rx a) in
    if inside gx x then
      let y := floor30 (place ry a) in
      if inside gy y then
        let z := floor30 (place rz a) in
        if inside gz z then near cell_key cells (fun b =>
          if overlapping_b sure margin g n o a b x y z then listed_copy m n (id a) (id b) else true) x y z
        else true else true else true else true) atoms.
Definition copy_at (ops : list (int * op)) n := find (fun p => (fst p =? n)%uint63) ops.
Definition check_copies sure margin gx gy gz atoms joined (ops : list (int * op)) (found : list (int * int * int)) : bool :=
  let cells := sort_by (key_of cell_key) atoms in
  let g := copies_of joined in let m := copies_of found in let t := by_number atoms in
  sound margin && proper gx && proper gy && proper gz && forallb small atoms && forallb (bounds gx gy gz) atoms
  && forallb (fun p => check_copy sure margin cells g m gx gy gz (fst p) (snd p) atoms) ops
  && forallb (fun f => match f with (n, i, j) =>
       match copy_at ops n, atom_at t i, atom_at t j with
       | Some p, Some a, Some b =>
           let x := floor30 (place (machine (along_x (snd p))) a) in
           let y := floor30 (place (machine (along_y (snd p))) a) in
           let z := floor30 (place (machine (along_z (snd p))) a) in
           inside gx x && inside gy y && inside gz z && member (sources (snd p)) (res a)
           && overlapping_b sure margin g n (snd p) a b x y z
       | _, _, _ => false end end) found.

Lemma nested_copy (p q r s t u : bool) (P S T U : Prop) :
  (p = true <-> P) -> (s = true <-> S) -> (t = true <-> T) -> (u = true <-> U) ->
  ((if p then if q then if r then if (if s then t else true) then negb u else false else false else false else false)
    = true <-> r = true /\ q = true /\ P /\ (S -> T) /\ ~ U).
Proof.
  intros [P1 P2] [S1 S2] [T1 T2] [U1 U2]. split.
  - intro H. destruct p, q, r; try discriminate. destruct s, t, u; try discriminate; repeat split; auto;
      intro K; try (specialize (U2 K); discriminate); specialize (S2 K); discriminate.
  - intros [-> [-> [K [S' N]]]]. rewrite (P2 K). assert (u = false) as -> by (destruct u; [elim N; auto|reflexivity]).
    destruct s; [rewrite (T2 (S' (S1 eq_refl)))|]; reflexivity.
Qed.
Lemma overlapping_spec sure margin joined n o a b x y z :
  sound margin = true -> to_Z x = copied (along_x o) a -> to_Z y = copied (along_y o) a ->
  to_Z z = copied (along_z o) a -> to_Z x < size -> to_Z y < size -> to_Z z < size -> small b = true ->
  member (sources o) (res a) = true ->
  (overlapping_b sure margin (copies_of joined) n o a b x y z = true <-> overlapping sure margin joined n o a b).
Proof.
  intros M Ex Ey Ez Sx Sy Sz Sb R. apply small_spec in Sb. destruct Sb as [? [? ?]].
  unfold overlapping_b, overlapping, related. cbv zeta. rewrite R.
  pose proof (squared_below_spec (dist2 x y z (px b) (py b) (pz b)) _ (limit_small margin (kind a) (kind b) M)) as D.
  pose proof (squared_below_spec (dist2 x y z (px b) (py b) (pz b)) _
    (bonded_limit_small margin (kind a) (kind b) M)) as D'.
  assert (V : to_Z (dist2 x y z (px b) (py b) (pz b)) = E2 o a b).
  { rewrite dist2_spec by assumption. unfold E2, X, Y, W. now rewrite Ex, Ey, Ez. }
  rewrite V in D, D'.
  assert (Own : ((id a =? id b) && (dist2 x y z (px b) (py b) (pz b) <? 250000))%uint63 = true
                <-> id a = id b /\ E2 o a b < 250000).
  { rewrite andb_true_iff, eqb_spec, ltb_spec, V. reflexivity. }
  exact (nested_copy _ _ _ _ _ _ _ _ _ _ D (listed_copy_spec joined n (id a) (id b)) D' Own).
Qed.

Theorem copies_exact sure margin gx gy gz atoms joined ops found :
  check_copies sure margin gx gy gz atoms joined ops found = true ->
  (forall n o a b, In (n, o) ops -> In a atoms -> In b atoms -> overlapping sure margin joined n o a b ->
     In (n, id a, id b) found)
  /\ (forall n i j, In (n, i, j) found -> exists o a b,
     In (n, o) ops /\ In a atoms /\ In b atoms /\ id a = i /\ id b = j /\ overlapping sure margin joined n o a b).
Proof.
  unfold check_copies. rewrite !andb_true_iff, !forallb_forall.
  intros [[[[[[[M Px] Py] Pz] S] G] N] F]. split.
  - intros n o a b Ho Ha Hb V. specialize (N _ Ho). cbn [fst snd] in N. unfold check_copy in N.
    rewrite !andb_true_iff, forallb_forall in N. destruct N as [[[Sx Sy] Sz] N]. specialize (N a Ha). cbv zeta in N.
    assert (R : member (sources o) (res a) = true).
    { destruct V as [R _]. unfold related in R. destruct (member (sources o) (res a)); [reflexivity|discriminate]. }
    rewrite R in N.
    pose proof (G b Hb) as W. unfold bounds in W. rewrite !andb_true_iff in W. destruct W as [[Wx Wy] Wz].
    assert (Near : E2 o a b < 16777216).
    { destruct V as [_ [_ [D _]]]. apply (below_cell _ _ D). now apply limit_small. }
    assert (T := Near). unfold E2 in T. apply parts in T; try apply sq_pos. destruct T as [Tx [Ty Tz]].
    destruct (outside_is_far gx _ a _ Px Wx Sx (S a Ha)) as [Ix Ox].
    destruct (outside_is_far gy _ a _ Py Wy Sy (S a Ha)) as [Iy Oy].
    destruct (outside_is_far gz _ a _ Pz Wz Sz (S a Ha)) as [Iz Oz].
    unfold X, Y, Points.W in Tx, Ty, Tz.
    destruct (inside gx _) eqn:Hx in N; [|exfalso; specialize (Ox Hx); lia].
    destruct (inside gy _) eqn:Hy in N; [|exfalso; specialize (Oy Hy); lia].
    destruct (inside gz _) eqn:Hz in N; [|exfalso; specialize (Oz Hz); lia].
    destruct (Ix Hx) as [Vx Zx], (Iy Hy) as [Vy Zy], (Iz Hz) as [Vz Zz].
    assert (Q : sq (to_Z (floor30 (place (machine (along_x o)) a)) - X b)
              + sq (to_Z (floor30 (place (machine (along_y o)) a)) - Y b)
              + sq (to_Z (floor30 (place (machine (along_z o)) a)) - Points.W b) < 16777216).
    { rewrite Vx, Vy, Vz. exact Near. }
    pose proof (near_sees_all cell_key atoms _ _ _ _ b N Hb Q) as P. cbv beta in P.
    apply (overlapping_spec sure margin joined n o a b _ _ _ M Vx Vy Vz Zx Zy Zz (S b Hb) R) in V. rewrite V in P.
    now apply listed_copy_spec.
  - intros n i j H. specialize (F _ H). cbv beta iota in F.
    destruct (copy_at ops n) as [[n' o]|] eqn:O; [|discriminate].
    destruct (atom_at (by_number atoms) i) as [a|] eqn:A; [|discriminate].
    destruct (atom_at (by_number atoms) j) as [b|] eqn:B; [|discriminate].
    apply find_some in O. destruct O as [O En]. cbn [fst] in En. apply eqb_spec in En. subst n'.
    apply atom_at_spec in A, B. destruct A as [Ia Ea], B as [Ib Eb]. cbn [snd] in F. cbv zeta in F.
    rewrite !andb_true_iff in F. destruct F as [[[[Hx Hy] Hz] R] F].
    pose proof (N _ O) as C. cbn [fst snd] in C. unfold check_copy in C. rewrite !andb_true_iff in C.
    destruct C as [[[Sx Sy] Sz] _].
    pose proof (G b Ib) as W. unfold bounds in W. rewrite !andb_true_iff in W. destruct W as [[Wx Wy] Wz].
    destruct (outside_is_far gx _ a _ Px Wx Sx (S a Ia)) as [Ix _]. destruct (Ix Hx) as [Vx Zx].
    destruct (outside_is_far gy _ a _ Py Wy Sy (S a Ia)) as [Iy _]. destruct (Iy Hy) as [Vy Zy].
    destruct (outside_is_far gz _ a _ Pz Wz Sz (S a Ia)) as [Iz _]. destruct (Iz Hz) as [Vz Zz].
    apply (overlapping_spec sure margin joined n o a b _ _ _ M Vx Vy Vz Zx Zy Zz (S b Ib) R) in F.
    exists o, a, b. do 5 (split; [assumption|]). exact F.
Qed.

(** The second half alone, for a stricter margin: entries that overlap whatever the rounding. *)
Definition check_found_copies sure margin gx gy gz atoms joined (ops : list (int * op)) found : bool :=
  let g := copies_of joined in let t := by_number atoms in
  sound margin && proper gx && proper gy && proper gz
  && forallb (fun f => match f with (n, i, j) =>
       match copy_at ops n, atom_at t i, atom_at t j with
       | Some p, Some a, Some b =>
           let x := floor30 (place (machine (along_x (snd p))) a) in
           let y := floor30 (place (machine (along_y (snd p))) a) in
           let z := floor30 (place (machine (along_z (snd p))) a) in
           (sane (along_x (snd p)) && sane (along_y (snd p)) && sane (along_z (snd p)))
           && (small a && small b && bounds gx gy gz b)
           && (inside gx x && inside gy y && inside gz z && member (sources (snd p)) (res a)
               && overlapping_b sure margin g n (snd p) a b x y z)
       | _, _, _ => false end end) found.
Theorem copies_sure sure margin gx gy gz atoms joined ops found :
  check_found_copies sure margin gx gy gz atoms joined ops found = true ->
  forall n i j, In (n, i, j) found -> exists o a b,
    In (n, o) ops /\ In a atoms /\ In b atoms /\ id a = i /\ id b = j /\ overlapping sure margin joined n o a b.
Proof.
  unfold check_found_copies. rewrite !andb_true_iff, !forallb_forall. intros [[[[M Px] Py] Pz] F] n i j H.
  specialize (F _ H). cbv beta iota in F.
  destruct (copy_at ops n) as [[n' o]|] eqn:O; [|discriminate].
  destruct (atom_at (by_number atoms) i) as [a|] eqn:A; [|discriminate].
  destruct (atom_at (by_number atoms) j) as [b|] eqn:B; [|discriminate].
  apply find_some in O. destruct O as [O En]. cbn [fst] in En. apply eqb_spec in En. subst n'.
  apply atom_at_spec in A, B. destruct A as [Ia Ea], B as [Ib Eb]. cbn [snd] in F. cbv zeta in F.
  rewrite !andb_true_iff in F. unfold bounds in F. rewrite !andb_true_iff in F.
  destruct F as [[[[Sx Sy] Sz] [[Sa Sb] [[Wx Wy] Wz]]] [[[[Hx Hy] Hz] R] F]].
  destruct (outside_is_far gx _ a _ Px Wx Sx Sa) as [Ix _]. destruct (Ix Hx) as [Vx Zx].
  destruct (outside_is_far gy _ a _ Py Wy Sy Sa) as [Iy _]. destruct (Iy Hy) as [Vy Zy].
  destruct (outside_is_far gz _ a _ Pz Wz Sz Sa) as [Iz _]. destruct (Iz Hz) as [Vz Zz].
  apply (overlapping_spec sure margin joined n o a b _ _ _ M Vx Vy Vz Zx Zy Zz Sb R) in F.
  exists o, a, b. do 5 (split; [assumption|]). exact F.
Qed.
