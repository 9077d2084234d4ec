(** The scale of a model: lengths of many bonds together, as the root of the sum of their squares over that of the ideal
    ones. Sums are integers of Z, which have no end. *)
From Coq Require Import ZArith List Lia Bool Uint63.
From CryoPrism Require Import Points Local.
Import ListNotations.
Open Scope Z_scope.

(** Least and most, in thousandths. *)
Definition least_scale := 970.
Definition most_scale := 1030.
(** Two atoms, and the square of the ideal length in 0.000001 Å². *)
Record span := Span { one_end : int; other_end : int; ideal : Z }.
Record group := Group { members : list span }.
Definition total (l : list Z) : Z := fold_right Z.add 0 l.
Definition in_scale (slack : Z) (squares ideals : Z) : Prop :=
  sq (least_scale + slack) * ideals <= 1000000 * squares <= sq (most_scale - slack) * ideals.

Definition span_value t (q : span) : option Z :=
  match atom_at t (one_end q), atom_at t (other_end q) with
  | Some a, Some b => Some (measured a b)
  | _, _ => None
  end.
(** Both sums at once: of the squares, and of the ideal ones. *)
Fixpoint sums t (l : list span) (s i : Z) : option (Z * Z) :=
  match l with
  | [] => Some (s, i)
  | q :: r => match span_value t q with Some d => sums t r (s + d) (i + ideal q) | None => None end
  end.
Definition scale_value t slack (g : group) : option bool :=
  match sums t (members g) 0 0 with
  | Some (s, i) => Some ((sq (least_scale + slack) * i <=? 1000000 * s) && (1000000 * s <=? sq (most_scale - slack) * i))
  | None => None
  end.

Definition squared (atoms : list atom) (q : span) (d : Z) : Prop :=
  exists a b, In a atoms /\ In b atoms /\ id a = one_end q /\ id b = other_end q /\ d = D2 a b.
Lemma sums_spec atoms l : forall s i s' i', sums (by_number atoms) l s i = Some (s', i') ->
  exists ds, Forall2 (squared atoms) l ds /\ s' = s + total ds /\ i' = i + total (map ideal l).
Proof.
  induction l as [|q r IH]; cbn [sums]; intros s i s' i' H.
  - injection H as <- <-. exists []. cbn. split; [constructor|lia].
  - unfold span_value in H. destruct (atom_at _ (one_end q)) as [a|] eqn:A; [|discriminate].
    destruct (atom_at _ (other_end q)) as [b|] eqn:B; [|discriminate]. apply atom_at_spec in A, B.
    apply IH in H. destruct H as [ds [F [S I]]]. exists (D2 a b :: ds). rewrite measured_spec in S.
    change (total (D2 a b :: ds)) with (D2 a b + total ds).
    change (total (map ideal (q :: r))) with (ideal q + total (map ideal r)).
    split; [|lia]. constructor; [exists a, b; tauto|exact F].
Qed.
Lemma some_is {T} (x y : T) : Some x = Some y -> x = y. Proof. congruence. Qed.
Theorem scale_exact atoms slack (l : list group) found :
  check_rule (scale_value (by_number atoms) slack) l found = true -> forall k g, nth_error l k = Some g ->
  exists ds, Forall2 (squared atoms) (members g) ds /\
    (In (Z.of_nat k) found <-> ~ in_scale slack (total ds) (total (map ideal (members g)))).
Proof.
  intros C k g H. destruct (rule_exact _ _ _ C k g H) as [F G].
  destruct (in_dec Z.eq_dec (Z.of_nat k) found) as [I|I]; [specialize (F I)|specialize (G I); clear F; rename G into F];
    unfold scale_value in F; destruct (sums _ (members g) 0 0) as [[s i]|] eqn:S; try discriminate;
    apply sums_spec in S; destruct S as [ds [E [-> ->]]]; exists ds; apply some_is in F; rewrite ?Z.add_0_l in F;
    unfold in_scale; rewrite ?andb_false_iff, ?andb_true_iff, ?Z.leb_gt, ?Z.leb_le in F; (split; [exact E|]);
    split; intros; try tauto; lia.
Qed.

(** Two numbers of atoms with 20 bits each, the ideal length in 0.001 Å with 16. *)
Definition spans_from (l : list int) : list span :=
  map (fun w => Span ((w >> 36) land 1048575)%uint63 ((w >> 16) land 1048575)%uint63
    (sq (value (w land 65535)%uint63))) l.
