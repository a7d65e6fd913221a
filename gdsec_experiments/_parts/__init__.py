"""What the figures have in common: their runs, words, tables, panels and sections."""

from gdsec_experiments._parts._panels import STAR as STAR
from gdsec_experiments._parts._panels import dots_of as dots_of
from gdsec_experiments._parts._panels import logarithmic as logarithmic
from gdsec_experiments._parts._panels import named_at_ends as named_at_ends
from gdsec_experiments._parts._panels import plain_numbers as plain_numbers
from gdsec_experiments._parts._panels import target_line as target_line
from gdsec_experiments._parts._panels import write_values as write_values
from gdsec_experiments._parts._runs import CURVES as CURVES
from gdsec_experiments._parts._runs import compare as compare
from gdsec_experiments._parts._runs import leavers as leavers
from gdsec_experiments._parts._runs import most_telling as most_telling
from gdsec_experiments._parts._runs import ours_of as ours_of
from gdsec_experiments._parts._runs import spent as spent
from gdsec_experiments._parts._runs import stays as stays
from gdsec_experiments._parts._runs import stopwatch as stopwatch
from gdsec_experiments._parts._runs import sweep as sweep
from gdsec_experiments._parts._sections import UPS_AND_DOWNS as UPS_AND_DOWNS
from gdsec_experiments._parts._sections import section_of as section_of
from gdsec_experiments._parts._sections import section_of_runs as section_of_runs
from gdsec_experiments._parts._tables import TO_THE_TARGET as TO_THE_TARGET
from gdsec_experiments._parts._tables import costs as costs
from gdsec_experiments._parts._tables import curves as curves
from gdsec_experiments._parts._tables import how_chosen as how_chosen
from gdsec_experiments._parts._tables import tidy as tidy
from gdsec_experiments._parts._words import AGAIN as AGAIN
from gdsec_experiments._parts._words import claims_of_the_paper as claims_of_the_paper
from gdsec_experiments._parts._words import differ as differ
from gdsec_experiments._parts._words import (
    fails_without_correction as fails_without_correction,
)
from gdsec_experiments._parts._words import fewest_bits as fewest_bits
from gdsec_experiments._parts._words import first_line as first_line
from gdsec_experiments._parts._words import keeps_the_rate as keeps_the_rate
from gdsec_experiments._parts._words import listed as listed
from gdsec_experiments._parts._words import needs_more_bits as needs_more_bits
from gdsec_experiments._parts._words import of_seeds as of_seeds
from gdsec_experiments._parts._words import of_the_data as of_the_data
from gdsec_experiments._parts._words import rounds_in_words as rounds_in_words
from gdsec_experiments._parts._words import slower as slower
