"""Write results as one page for review, and write the verdicts given there back into the results.

==================  ==================================================================================
``inputs``          the pairs of a report, also those found in folders of results
``content``         the strongest anomalies of all pairs, and the content of the page as JSON
``map``             pairs and outlines on the page's map
``images``          before, after and scores around a polygon; an overview of each pair
``page``            the page as a stream of HTML, with the pictures of one pair after the other
``bundle/``         the page's program and style sheet, built from ``web/``
``api``             ``write_report()``
``verdicts``        ``write_verdicts()``: exported verdicts into the GeoPackages
==================  ==================================================================================
"""

from geosiam.report.api import ReportOptions, ReportResult, write_report
from geosiam.report.inputs import ReportPair, UnmatchedScene, find_pairs
from geosiam.report.page import page_digest
from geosiam.report.verdicts import WrittenVerdicts, write_verdicts

__all__ = [
    "ReportOptions",
    "ReportPair",
    "ReportResult",
    "UnmatchedScene",
    "WrittenVerdicts",
    "find_pairs",
    "page_digest",
    "write_report",
    "write_verdicts",
]
