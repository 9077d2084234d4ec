"""Formulas of common ligands, ions and modified residues: their atoms but hydrogens, as they are when alone."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Final

import gemmi

from ._names import IONS

__all__ = ["FORMULAS", "formula_of", "ion_of", "weight_of"]

#: By their names in the chemical component dictionary. Where gemmi's table has a name, a test compares the weights.
_TEXT: Final = """
O4S: SO4; O4P: PO4; O4V: VO4; NO3: NO3; CO3: CO3 BCT; N3: AZI; CN: CYN; CNS: SCN; N: NH2 NH4
AlF4: ALF; AlF3: AF3; BeF3: BEF; F3Mg: MGF; Fe4S4: SF4; Fe2S2: FES; Fe3S4: F3S
C3O3: GOL; C2O2: EDO ACT; CO2: FMT; C2OS: DMS BME; C4NO3: TRS; C6NO4S: MES; C8N2O4S: EPE; C6NO4: BCN; C6O7: CIT FLC
C4O3: PEG; C6O4: PGE; C8O5: PG4; C10O6: 1PE; C6O2: MPD MRD; C3O: IPA; C2O: EOH ACE; CO: MOH; C4O2S2: DTT
C3N2: IMD; CN2O: URE; CN3: GAI; C4O6: TLA; C3O4: MLI; C4O4: SIN; C2NO: ETA; CN: NME; C7O3: HTO
C10N4: SPM; C7N3: SPD; C4N2: PUT; C14O6: BOG; C13O5S: HTG; C24O11: LMT; C14NO: LDA; C8: OCT
C10N5O13P3: ATP; C10N5O10P2: ADP; C10N5O7P: AMP; C10N5O14P3: GTP; C10N5O11P2: GDP; C10N5O8P: 5GP
C10N6O12P3: ANP; C10N6O13P3: GNP; C11N5O12P3: ACP; C11N5O13P3: GCP; C10N5O12P3S: AGS; C10N5O13P3S: GSP
C9N3O14P3: CTP; C9N2O15P3: UTP; C9N2O12P2: UDP; C9N2O9P: U5P; C10N2O14P3: TTP; C10N5O6P: CMP
C15N6O5S: SAM; C14N6O5S: SAH; C21N7O14P2: NAD NAI; C21N7O17P3: NAP NDP; C27N9O15P2: FAD; C17N4O9P: FMN
C21N7O16P3S: COA; C23N7O17P3S: ACO; C34FeN4O4: HEM HEC; C49FeN4O6: HEA; C55MgN4O5: CLA; C40: BCR
C8NO6P: PLP; C12N4O7P2S: TPP; C10N2O3S: BTN; C10N3O6S: GSH; C20O: RET; C16O2: PLM; C18O2: OLA STE; C14O2: MYR
C27O: CLR; C31O4: Y01; C42NO8P: POV; C41NO8P: PEE; C40NO8P: PTY; C38O10P: LHG; C81O17P2: CDL; C47NO14: TA1
C6O6: GLC BGC GAL GLA MAN BMA; C8NO6: NAG NDG NGA A2G; C6O5: FUC FUL RAM; C5O5: XYS XYP; C11NO9: SIA SLB
C6O7: GCU BDP IDR; C6NO5: GCS; C12O11: TRE SUC
C3NO6P: SEP; C4NO6P: TPO; C9NO6P: PTR; C8N2O2: MLY; C9N2O2: M3L; C7N2O2: MLZ; C8N2O3: ALY; C7N2O4: KCX
C3NO3S: CSO CSX; C3NO4S: CSD; C3NO5S: OCS; C5NO3S2: CME; C5NO3: HYP PCA; C6NO6: CGU; C14N3O7P: LLP; C6NO3S: FME
C4NO2: AIB; C6NO2: NLE; C5N2O2: ORN; C9NO6S: TYS; C7N3O2: HIC; C3NO2: SAR; C15N3O5: CRO
C9N2O9P: PSU H2U; C10N3O8P: 5MC OMC; C10N2O9P: 5MU OMU; C11N5O8P: OMG 2MG 7MG G7M; C12N5O8P: M2G
C11N5O7P: 1MA 6MZ; C12N5O7P: MA6; C9N2O8PS: 4SU; C9BrN2O8P: BRU
"""
#: Ions of one atom whose name in the dictionary is not their element's.
_CHARGED: Final = {
    "FE2": "FE", "CU1": "CU", "3CO": "CO", "3NI": "NI", "MN3": "MN", "IOD": "I", "GD3": "GD", "YB2": "YB", "EU3": "EU",
    "F": "F",
    **{name: name for name in "AL GA IN CR AG AU PT PD PB TL GD YB SM TB EU LA CE HO LU".split()},  # noqa: SIM905
}  # fmt: skip


def _read(text: str) -> Counter[str]:
    return Counter({element.upper(): int(count or 1) for element, count in re.findall(r"([A-Z][a-z]?)(\d*)", text)})


#: Atoms but hydrogens by the name of a component.
FORMULAS: Final[dict[str, Counter[str]]] = {
    name: _read(formula) for formula, names in re.findall(r"(\w+): ([^;\n]+)", _TEXT) for name in names.split()
}


def formula_of(name: str) -> Counter[str] | None:
    """Atoms but hydrogens of a component, or None where the table does not have it."""
    return FORMULAS.get(name)


def ion_of(name: str) -> str | None:
    """Element of an ion of one atom by its name in the dictionary, or None."""
    return _CHARGED.get(name) or (name if IONS.get(name) == name else None)


@cache
def weight_of(name: str) -> float:
    """Weight of a component without its hydrogens by gemmi's table; 0 where it has none."""
    found = gemmi.find_tabulated_residue(name)
    if not found.found() or found.weight <= 0:
        return 0.0
    return float(found.weight - found.hydrogen_count * gemmi.Element("H").weight)
