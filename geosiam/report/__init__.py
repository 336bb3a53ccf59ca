"""Results in, one page to look through out; the verdicts given there back into the results.

==================  ==================================================================================
``pairs``           what the page is about: pairs, found in folders of results
``results``         what a GeoPackage says of its run and of its polygons
``ranking``         the strongest anomalies of all pairs
``places``          where things lie on the page's map
``scenes``          a part of a scene on any grid, at the cost of the part
``pictures``        before, after and scores of one place, stretched alike; overviews
``encoding``        pictures as few bytes
``bundle/``         the page's program and style sheet, built from ``web/``
``content``         all that the page says, as JSON
``budget``          how the bytes of a page are shared out
``author``          the pictures of one pair after the other
``page``            the page as a stream of HTML
``api``             ``write_report()``: all of the above in their order
``verdicts``        what was decided on the page, written into the GeoPackages
==================  ==================================================================================
"""

from geosiam.report.api import ReportOptions, ReportResult, write_report
from geosiam.report.inputs import ReportPair, UnmatchedScene, find_pairs
from geosiam.report.page import mark_of
from geosiam.report.verdicts import WrittenVerdicts, write_verdicts

__all__ = [
    "ReportOptions",
    "ReportPair",
    "ReportResult",
    "UnmatchedScene",
    "WrittenVerdicts",
    "find_pairs",
    "mark_of",
    "write_report",
    "write_verdicts",
]
