(** Obligations from packed machine integers: numbers of atoms have 20 bits each. *)
From Coq Require Import ZArith List Bool Uint63.
From CryoPrism Require Import Points Local Ligands.
Import ListNotations.
Open Scope Z_scope.

Definition number (w : int) : int := (w land 1048575)%uint63.
Definition chosen (ranges : list (Z * Z)) (w : int) : Z * Z := nth (Z.to_nat (value w)) ranges (1, 0).
(** first, second, class of its range (16 bits) *)
Definition pairs_from (ranges : list (Z * Z)) (l : list int) : list pair :=
  map (fun w => let c := chosen ranges (w land 65535)%uint63 in
    Pair (number (w >> 36)%uint63) (number (w >> 16)%uint63) (fst c) (snd c)) l.
Definition bonds_from (l : list int) : list (int * int) :=
  map (fun w => (number (w >> 36), number (w >> 16))%uint63) l.
(** first and second; third, fourth and class of its range (8 bits) *)
Fixpoint fours_from (ranges : list (Z * Z)) (l : list int) : list four :=
  match l with
  | v :: w :: r => let c := chosen ranges (w land 255)%uint63 in
      Four (number (v >> 20)%uint63) (number v) (number (w >> 28)%uint63) (number (w >> 8)%uint63) (fst c) (snd c)
      :: fours_from ranges r
  | _ => []
  end.
(** two numbers of 30 bits; the lowest bit says that they have to agree *)
Definition numbers_from (l : list int) : list numbers :=
  map (fun w => let a := quick 30 ((w >> 31) land 1073741823)%uint63 in let b := quick 30 ((w >> 1) land 1073741823)%uint63 in
    if (w land 1 =? 1)%uint63 then Equal a b else Less a b) l.
Definition voxels_from (l : list int) : list (Z * Z * Z) :=
  map (fun w => (value (number (w >> 40)%uint63), value (number (w >> 20)%uint63), value (number w))) l.
