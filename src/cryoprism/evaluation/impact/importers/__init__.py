"""Public bibliographic dumps into a citation graph: OpenAlex works and mergers, PatentsView, PDB and EMDB entries.

Every file is read once, line by line. A line that cannot be used is counted and the first ones are named.
"""

from .dumps import ImportCount
from .entries import import_entries
from .identifiers import clean_doi
from .merged import import_merged_works
from .openalex import import_openalex
from .patentsview import import_patent_citations, import_patent_references, import_patents

__all__ = [
    "ImportCount",
    "clean_doi",
    "import_entries",
    "import_merged_works",
    "import_openalex",
    "import_patent_citations",
    "import_patent_references",
    "import_patents",
]
