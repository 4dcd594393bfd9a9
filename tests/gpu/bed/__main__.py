"""`python -m tests.gpu.bed`: build the bed, or say why that cannot be done here."""

from tests.gpu.bed.build import main

main()
