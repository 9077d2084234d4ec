(** How far distances between rounded places may be from those between true ones. Units: 1 is 1/S of 0.001 Å for true
    places (capital letters), 0.001 Å for rounded ones. *)
From Coq Require Import ZArith Lia.
From CryoPrism Require Import Points Mates.
Open Scope Z_scope.

Lemma cauchy a b c d e f : sq (a * d + b * e + c * f) <= (sq a + sq b + sq c) * (sq d + sq e + sq f).
Proof.
  pose proof (sq_pos (a * e - b * d)). pose proof (sq_pos (a * f - c * d)). pose proof (sq_pos (b * f - c * e)).
  unfold sq in *. nia.
Qed.
Lemma root p q : 0 <= q -> sq p <= sq q -> p <= q. Proof. unfold sq. nia. Qed.
Lemma below m n p q : 0 <= p < m -> 0 <= q <= n -> p * q <= m * n. Proof. nia. Qed.
(** Triangle inequality, squared. *)
Lemma triangle a b c d e f m n : 0 <= m -> 0 <= n -> sq a + sq b + sq c < sq m -> sq d + sq e + sq f <= sq n ->
  sq (a + d) + sq (b + e) + sq (c + f) < sq (m + n).
Proof.
  intros Hm Hn A D. pose proof (cauchy a b c d e f) as K.
  assert (P : a * d + b * e + c * f <= m * n).
  { apply root; [nia|]. etransitivity; [exact K|]. replace (sq (m * n)) with (sq m * sq n) by (unfold sq; ring).
    apply below; pose proof (sq_pos a); pose proof (sq_pos b); pose proof (sq_pos c); pose proof (sq_pos d);
      pose proof (sq_pos e); pose proof (sq_pos f); lia. }
  replace (sq (a + d) + sq (b + e) + sq (c + f))
    with (sq a + sq b + sq c + (sq d + sq e + sq f) + 2 * (a * d + b * e + c * f)) by (unfold sq; ring).
  replace (sq (m + n)) with (sq m + sq n + 2 * (m * n)) by (unfold sq; ring). lia.
Qed.
(** True differences U V T, rounded ones u v w, apart by no more than e: what is further than c + e is further than c. *)
Theorem surely_apart S c e u v w U V T : 0 < S -> 0 <= c -> 0 <= e ->
  sq (U - S * u) + sq (V - S * v) + sq (T - S * w) <= sq (S * e) ->
  sq (c + e) <= sq u + sq v + sq w -> sq (S * c) <= sq U + sq V + sq T.
Proof.
  intros HS Hc He E D. destruct (Z_lt_le_dec (sq U + sq V + sq T) (sq (S * c))) as [L|]; [exfalso|assumption].
  pose proof (triangle U V T (- (U - S * u)) (- (V - S * v)) (- (T - S * w)) (S * c) (S * e)) as K.
  assert (N : forall z, sq (- z) = sq z) by (intro; unfold sq; ring). rewrite !N in K.
  specialize (K ltac:(nia) ltac:(nia) L E).
  replace (U + - (U - S * u)) with (S * u) in K by ring. replace (V + - (V - S * v)) with (S * v) in K by ring.
  replace (T + - (T - S * w)) with (S * w) in K by ring.
  assert (M : forall z, sq (S * z) = sq S * sq z) by (intro; unfold sq; ring).
  replace (S * c + S * e) with (S * (c + e)) in K by ring. rewrite !M in K.
  assert (0 < sq S) by (unfold sq; nia). nia.
Qed.
(** What is nearer than c - e is nearer than c. *)
Theorem surely_near S c e u v w U V T : 0 < S -> 0 <= e <= c ->
  sq (U - S * u) + sq (V - S * v) + sq (T - S * w) <= sq (S * e) ->
  sq u + sq v + sq w < sq (c - e) -> sq U + sq V + sq T < sq (S * c).
Proof.
  intros HS He E D.
  assert (M : forall z, sq (S * z) = sq S * sq z) by (intro; unfold sq; ring).
  assert (0 < sq S) by (unfold sq; nia).
  pose proof (triangle (S * u) (S * v) (S * w) (U - S * u) (V - S * v) (T - S * w) (S * (c - e)) (S * e)) as K.
  specialize (K ltac:(nia) ltac:(nia) ltac:(rewrite !M; nia) E).
  replace (S * u + (U - S * u)) with U in K by ring. replace (S * v + (V - S * v)) with V in K by ring.
  replace (S * w + (T - S * w)) with T in K by ring. replace (S * (c - e) + S * e) with (S * c) in K by ring. exact K.
Qed.
Lemma each_below U V T S : 0 < S -> - S <= U <= S -> - S <= V <= S -> - S <= T <= S ->
  sq U + sq V + sq T <= sq (S * 2).
Proof. unfold sq. nia. Qed.
(** Two places, each rounded to the nearest 0.001 Å: their distance is right to 0.002 Å. *)
Theorem rounding_two S p q p' q' P Q P' Q' R R' r r' : 0 < S ->
  2 * Z.abs (P - S * p) <= S -> 2 * Z.abs (P' - S * p') <= S -> 2 * Z.abs (Q - S * q) <= S ->
  2 * Z.abs (Q' - S * q') <= S -> 2 * Z.abs (R - S * r) <= S -> 2 * Z.abs (R' - S * r') <= S ->
  sq ((P - P') - S * (p - p')) + sq ((Q - Q') - S * (q - q')) + sq ((R - R') - S * (r - r')) <= sq (S * 2).
Proof. intros. apply each_below; lia. Qed.
(** A copy that was rounded down: its distance to an atom is right to 0.002 Å. *)
Theorem rounding_copy o a b :
  sq ((exact (along_x o) a - unit * X b) - unit * (copied (along_x o) a - X b))
  + sq ((exact (along_y o) a - unit * Y b) - unit * (copied (along_y o) a - Y b))
  + sq ((exact (along_z o) a - unit * W b) - unit * (copied (along_z o) a - W b)) <= sq (unit * 2).
Proof.
  assert (F : forall r, 0 <= exact r a - unit * copied r a < unit).
  { intro r. unfold copied. pose proof (Z.div_mod (exact r a) unit ltac:(discriminate)).
    pose proof (Z.mod_pos_bound (exact r a) unit ltac:(reflexivity)). lia. }
  pose proof (F (along_x o)). pose proof (F (along_y o)). pose proof (F (along_z o)).
  apply each_below; [reflexivity| | |]; lia.
Qed.
