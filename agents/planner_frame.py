# ruff: noqa: E501  A pattern stays on one line: broken up, nobody could read it.
"""Take the wrapping off a wish: politeness, pleas for help, and the form of a question.

`could you help me cancel my order?` and `how do I cancel my order` are both about cancelling one.
The wrapping tells how they mean it, and a question how something is done is never a request to do it.
"""

import re
from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    REQUEST = "request"
    """They ask for it, or plainly name it."""
    ABILITY = "ability"
    """They ask whether it can be done, which may or may not be a request."""
    HELP = "help"
    """They want help with it."""
    HOW = "how"
    """They ask how it is done."""
    TROUBLE = "trouble"
    """They tried, and could not."""


_HELP = r"(?:help|assistance|support|aid|a hand|guidance|advice)"
_ME = r"(?: me)?"
_TO = r"(?: to| with| for| in| on| about| regarding| of| by)?"
_WANT = (
    r"(?:(?:want|need|wish|hope|like|love|try|tried|plan|have|has|got|ought|call|called|write|wrote|"
    r"attempt|going|prefer|require|trying|looking|hoping|calling|writing|planning)\b)"
)
_LEFT: tuple[tuple[Mode, str], ...] = (
    (Mode.REQUEST, r"(?:please|hi|hello|hey|ok|okay|so|well|and|also|then|now|just|sorry|thanks|actually|good (?:morning|afternoon|evening|day)|excuse me|there|sir|madam|if possible|maybe|perhaps|yes)\b[ ,.!]*"),
    (Mode.HOW, r"(?:i )?(?:do not|did not|does not) (?:know|understand|see|remember|get) (?:how|what|where|which)(?: (?:to do to|i (?:need|have|ought) to do to|i must do to|i (?:can|could|should|may|might|must)|steps|to))?(?: to)?\b"),
    (Mode.HOW, r"(?:tell|show|explain|teach|advise)" + _ME + r"(?: to me)? (?:how|where|what)(?: (?:to do to|to|i can|i could|do i|can i))?\b"),
    (Mode.HOW, r"(?:i )?(?:would like to |want to |need to |wanna )?(?:know|learn|understand|find out|ask) (?:how|where|what)(?: (?:to do to|to|i can|i could|do i|can i|i should))?\b"),
    (Mode.HOW, r"how (?:can|do|does|could|would|should|may|might|shall|must) (?:i|we|you|one|someone)(?: (?:go about|be able to))?\b"),
    (Mode.HOW, r"how to(?: go about)?\b"),
    (Mode.HOW, r"(?:where|which way|in what way) (?:can|do|could|should|may|might|would|must) (?:i|we|one)(?: go)?(?: to)?\b"),
    (Mode.HOW, r"where to\b"),
    (Mode.HOW, r"what (?:do|should|must|can|could|would|shall) (?:i|we) (?:have to do|need to do|have to|need to|do)(?: (?:to|in order to|if i want to|for))?\b"),
    (Mode.HOW, r"what (?:is|are) (?:the )?(?:way|ways|process|procedure|steps?|method) (?:to|for|of)\b"),
    (Mode.HOW, r"(?:is|are) there (?:a |any |an )?(?:ways?|possibilit(?:y|ies)|options?|place|section|page|site|website|address|e-?mail|form|number|steps?|process|procedure) (?:where i can |i can |that i can |to |for |of |on how to )"),
    (Mode.TROUBLE, r"(?:i )?(?:can not|could not|can no longer|can nt|am not able to|was not able to|am unable to|unable to|fail(?:ed)? to|did not manage to)\b"),
    (Mode.TROUBLE, r"(?:i )?(?:have|has|had|got|am having|having|there (?:is|are|was)|experience|encountered?|ran into)? ?(?:a|an|some|any|several|the)? ?(?:problem|issue|trouble|difficult(?:y|ie)|error)s? (?:to|with|about|on|in|at|when|while|trying to|related to|concerning)\b"),
    (Mode.HELP, r"(?:i )?(?:have|has|had|got|am having|having|there (?:is|are|was))? ?(?:a|an|some|any|several|the)? ?(?:question|doubt|querie?|enquir(?:y|ie)|inquir(?:y|ie))s? (?:to|with|about|on|in|of|regarding)\b"),
    (Mode.HELP, r"(?:can|could|would|will|may) (?:you|someone|somebody|anyone|i|we) (?:please )?(?:help|assist|aid|support|guide|get (?:some |any |a bit of )?" + _HELP + r"|have (?:some |any )?" + _HELP + r"|give (?:me )?(?:some |a )?" + _HELP + r")" + _ME + _TO + r"\b"),
    (Mode.HELP, r"(?:help|assist|guide|aid) me" + _TO + r"\b"),
    (Mode.HELP, r"(?:i )?(?:would )?" + _WANT + r" (?:to (?:get|have|receive) )?(?:your |some |any |a bit of |a little |urgent |more )?" + _HELP + _TO + r"\b"),
    (Mode.HELP, _HELP + r" (?:me )?(?:to|with|for|in|on|about|by|of)\b"),
    (Mode.ABILITY, r"(?:is|would|will|was) it (?:be )?(?:possible|ok|okay|allowed|permitted|feasible) (?:for me |that i )?(?:to|if i)?\b"),
    (Mode.ABILITY, r"(?:am i|are we) (?:able|allowed|permitted|free) to\b"),
    (Mode.ABILITY, r"(?:can|could|may|might) (?:i|we|one)(?: please)?\b"),
    (Mode.REQUEST, r"(?:can|could|would|will) you(?: please| kindly| mind)?\b"),
    (Mode.REQUEST, r"(?:i |we )(?:am |are |really |would |just |only |have |was |urgently |still )*" + _WANT + r"(?: got)?(?: you)? to\b"),
    (Mode.REQUEST, _WANT + r"(?: got)? to\b"),
    (Mode.REQUEST, r"(?:let us|let me|i will|i would|i am)\b(?= (?:to |like to |try to )?\w)"),
)  # fmt: skip
_RIGHT: tuple[tuple[Mode, str], ...] = (
    (Mode.REQUEST, r"(?:please|thanks|thank you|for me|right away|immediately|as soon as possible)"),
    (Mode.HOW, r"(?:how (?:can|do|could|should|would) i do (?:it|that|this|so)|how to do (?:it|that|this|so)|how (?:do|can) i (?:go about|proceed)|what (?:do|should) i do|how)"),
    (Mode.HELP, r"(?:(?:i|we)? ?(?:want|need|would like|require)? ?(?:some |your |any )?(?:help|assistance|support)(?: me)?(?: with (?:it|that|this))?)"),
    (Mode.HELP, r"(?:(?:can|could|will|would) (?:i|you|someone|somebody) (?:please )?(?:get |have |give me )?(?:some |any )?(?:help|assist|assistance|support)(?: me)?(?: with (?:it|that|this))?)"),
)  # fmt: skip
_LEADING = tuple((mode, re.compile(rf"^(?:{pattern})\s*")) for mode, pattern in _LEFT)
_TRAILING = tuple(
    (mode, re.compile(rf"(?:^|[\s,.;?!]+)(?:{pattern})[\s?.!]*$")) for mode, pattern in _RIGHT
)
_WEIGHT = {Mode.REQUEST: 0, Mode.ABILITY: 1, Mode.HELP: 2, Mode.TROUBLE: 3, Mode.HOW: 4}
_REFUSAL = re.compile(
    r"^(?:(?:please|no|oh|wait|but|and|ok|okay|actually|never ?mind)[ ,]+)*"
    r"(?:i |we )?(?:(?:do not|did not|never|would not|will not|no longer)"
    r"(?: (?:really|ever|actually|just|even))?"
    r"(?: (?:want|need|wish|like|mean|ask|tell)(?: you| us)? to)?|no need to|"
    r"there is no need to)\s+(?P<verb>\w+)"
)


@dataclass(frozen=True, slots=True)
class Frame:
    mode: Mode
    core: str
    """What is left once the wrapping is off; never empty unless the message was all wrapping."""
    refuses: str | None = None
    """The verb of something they say must not be done."""


def frame_of(said: str) -> Frame:
    """Read the wrapping of a normalised message."""
    refusal = _REFUSAL.match(said)
    refuses = refusal["verb"] if refusal else None
    mode, core = Mode.REQUEST, said
    stripped = True
    while stripped:
        stripped = False
        for found, pattern in (*_LEADING, *_TRAILING):
            left, count = pattern.subn("", core, count=1)
            if count and left.strip(" ,.;?!"):
                core, stripped = left.strip(" ,.;?!"), True
                mode = max(mode, found, key=_WEIGHT.__getitem__)
                break
    return Frame(mode, core, refuses)
