"""Order and offsets of the towers' input vector: one definition for training and serving."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InputBlock:
    """Columns [offset, offset + width) of the input vector and the feature that fills them."""

    feature: str
    offset: int
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class InputLayout:
    """The columns of both towers' input.

    The viewer's part comes first, so that its share of the first layer is computed once per
    request; the candidate's part follows:

        viewer [D] | history_members mean [D] | history_hashtags mean [H] | shared normalised [S]
        actor [D] | root_actor [D] | hashtags mean [H] | leaves sqrtn [L] | dense normalised [F]

    Attributes:
        member_dim: D, columns of the member table.
        hashtag_dim: H, columns of the hashtag table.
        leaf_dim: L, columns of the leaf table.
        num_shared: S, float features of the request.
        num_dense: F, float features of a candidate.
    """

    member_dim: int
    hashtag_dim: int
    leaf_dim: int
    num_shared: int
    num_dense: int

    @property
    def viewer_blocks(self) -> tuple[InputBlock, ...]:
        """Blocks that all candidates of a request share, from column 0 on."""
        return _blocks(
            0,
            ("viewer", self.member_dim),
            ("history_members", self.member_dim),
            ("history_hashtags", self.hashtag_dim),
            ("shared", self.num_shared),
        )

    @property
    def candidate_blocks(self) -> tuple[InputBlock, ...]:
        """Blocks of one candidate, from column `num_viewer_inputs` on."""
        return _blocks(
            self.num_viewer_inputs,
            ("actor", self.member_dim),
            ("root_actor", self.member_dim),
            ("hashtags", self.hashtag_dim),
            ("leaves", self.leaf_dim),
            ("dense", self.num_dense),
        )

    @property
    def num_viewer_inputs(self) -> int:
        """Columns of the viewer's part: 2 D + H + S."""
        return 2 * self.member_dim + self.hashtag_dim + self.num_shared

    @property
    def num_inputs(self) -> int:
        """All columns."""
        return (
            self.num_viewer_inputs
            + 2 * self.member_dim
            + self.hashtag_dim
            + self.leaf_dim
            + self.num_dense
        )


def _blocks(offset: int, *widths: tuple[str, int]) -> tuple[InputBlock, ...]:
    blocks = []
    for feature, width in widths:
        blocks.append(InputBlock(feature, offset, width))
        offset += width
    return tuple(blocks)
