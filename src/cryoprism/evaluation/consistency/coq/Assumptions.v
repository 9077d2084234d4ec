(** What the theorems rest on beside Coq's kernel: its machine integers and their specification. *)
From CryoPrism Require Import Points Copies Mates Local Ligands Packing Margins.
Print Assumptions clashes_exact.
Print Assumptions copies_exact.
Print Assumptions distances_exact.
Print Assumptions surely_apart.
