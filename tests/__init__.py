"""Tests of Kizashi: unit and property (no broker), contract, broker and system (real ones), chaos, bench."""
