"""How the work is dealt to the workers: a shard of the accounts and one of the merchants for each of them.

The states of a shard live in its worker alone, and are brought back from the journal at every start; so a flow may
start with any number of workers.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from typing import Final

import numpy as np

from features.transaction import Label
from flows.records import TEXTS, ForAccounts, ForMerchants, Home, Transactions

_WORD: Final = (1 << 64) - 1


class Dealer:
    """Deals batches to shards.

    Bytewax gives a key to the worker ``hash(key) % workers``, so each shard bears a name that falls to another worker.
    Which shard an entity belongs to is for this process to say, and until it ends.
    """

    def __init__(self, workers: int, texts: Collection[str] = TEXTS) -> None:
        """``texts``: what the merchants' windows look at besides the merchant."""
        self.keys = keys_of(workers)
        self._texts = {*texts, "merchant_id"}
        self._number = 0

    def deal(
        self, transactions: Transactions, labels: list[tuple[int, Label]], watermark: int, *, past: bool = False
    ) -> list[ForAccounts | ForMerchants]:
        """What each shard gets of the batch; a label goes with the number of transactions before it."""
        self._number += 1
        if len(self.keys) == 1:
            return self._to_the_only_worker(transactions, labels, watermark, past=past)
        accounts = self._shards(transactions.account_id)
        merchants = self._shards(transactions.merchant_id)
        there = np.empty(len(transactions), np.int64)
        dealt: list[ForAccounts | ForMerchants] = []
        for shard, key in enumerate(self.keys):
            places = np.flatnonzero(accounts == shard)
            there[places] = np.arange(len(places))
            if len(places):
                dealt.append(ForAccounts(key, self._number, transactions.at(places), watermark, past))
        for shard, key in enumerate(self.keys):
            places = np.flatnonzero(merchants == shard)
            # Of the transactions before a label, those in this shard.
            said = [
                (int(np.searchsorted(places, before)), label)
                for before, label in labels
                if self._shard(label.merchant_id) == shard
            ]
            if len(places) or said:
                homes = [
                    Home(home, here, there[places[here]])
                    for number, home in enumerate(self.keys)
                    if len(here := np.flatnonzero(accounts[places] == number))
                ]
                of_them = transactions.at(places, self._texts)
                dealt.append(ForMerchants(key, self._number, of_them, watermark, past, homes, said))
        return dealt

    def _to_the_only_worker(
        self, transactions: Transactions, labels: list[tuple[int, Label]], watermark: int, *, past: bool
    ) -> list[ForAccounts | ForMerchants]:
        key = self.keys[0]
        all_of_them = np.arange(len(transactions))
        homes = [Home(key, all_of_them, all_of_them)] if len(transactions) else []
        for_merchants = ForMerchants(key, self._number, transactions, watermark, past, homes, labels)
        if not homes:
            return [for_merchants] if labels else []
        return [ForAccounts(key, self._number, transactions, watermark, past), for_merchants]

    def _shard(self, text: str) -> int:
        return hash(text) % len(self.keys)

    def _shards(self, texts: list[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.fromiter(map(hash, texts), np.int64, len(texts)) % len(self.keys)


def keys_of(workers: int) -> list[str]:
    """A key for each worker, no two of which fall to the same one."""
    return [
        next(key for key in (f"{shard}-{n}" for n in count()) if _siphash(key.encode() + b"\xff") % workers == shard)
        for shard in range(workers)
    ]


def _siphash(data: bytes) -> int:
    """SipHash-1-3 with a key of zeros (Aumasson and Bernstein, 2012), by which Rust's standard library hashes.

    Rust ends the bytes of a text with 0xff.
    """
    # "somepseudorandomlygeneratedbytes", as in the paper.
    state = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]
    whole = len(data) // 8 * 8
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, whole, 8)]
    for word in [*words, int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56]:
        state[3] ^= word
        _round(state)
        state[0] ^= word
    state[2] ^= 0xFF
    for _ in range(3):
        _round(state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _round(v: list[int]) -> None:
    for a, b, rotation, turned in ((0, 1, 13, 0), (2, 3, 16, None), (0, 3, 21, None), (2, 1, 17, 2)):
        v[a] = (v[a] + v[b]) & _WORD
        v[b] = _rotated(v[b], rotation) ^ v[a]
        if turned is not None:
            v[turned] = _rotated(v[turned], 32)


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _WORD
