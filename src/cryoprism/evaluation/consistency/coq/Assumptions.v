(** What the theorems rest on beside Coq's kernel: its machine integers and their specification. *)
From CryoPrism Require Import Points Copies Mates Local Ligands Scale Packing Margins Claims.
Print Assumptions atoms_numbered.
Print Assumptions clashes_exact.
Print Assumptions clashes_sure.
Print Assumptions copies_exact.
Print Assumptions copies_sure.
Print Assumptions distances_exact.
Print Assumptions volumes_exact.
Print Assumptions sides_exact.
Print Assumptions numbers_exact.
Print Assumptions inside_exact.
Print Assumptions ligands_exact.
Print Assumptions scale_exact.
Print Assumptions surely_apart.
Print Assumptions surely_near.
Print Assumptions rounding_two.
Print Assumptions rounding_copy.
