"""Who calls whom: users, display names, tags, branches, contacts, Call-IDs and header values.

Owns how one seeded source of chance becomes identities that look like a telephone system's.
Refuses to know what happens in a call (`script`, `scenarios`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum

DOMAIN = "example.com"

_NAMES = (
    '"Alice Ångström"',
    '"Lévêque, Zoë"',
    '"Grace \\"Amazing\\" Hopper"',
    '"D\'Arcy"',
    '"鈴木花子"',
    '"Ольга"',
    '"فاطمة"',
    '"☎ front desk"',
    '"Sales; north: 2"',
    '"a<b>c"',
    "Reception",
    "",
    "",
    "",
)
STRANGE_NAMES = (
    '"x;tag=notatag"',
    '"; tag=alsonot"',
    '"back\\\\slash"',
    '"%0d%0aVia: forged"',
    '"\'); DROP TABLE cdrs; --"',
    '"=HYPERLINK(\\"http://evil\\")"',
    '"[red]markup[/red]"',
    '"\u202egnihtemos"',
    '"\U0001d518\U0001d52b\U0001d526"',
    '"' + "L" * 4_000 + '"',
)
_CONTACT_PARAMETERS = (
    "",
    "",
    ";transport=tcp",
    ";transport=udp;line=3",
    ";x-sipX-nonat",
    ";play=https%3A%2F%2Flocalhost%2Fvm",
)
ROUTES = ("INT", "INT", "INT", "VM", "LD", "LOCL", "EMERG", "PARK", "AA", "TF", "AL,LD", "VMR,VM")


class TagForm(StrEnum):
    """How a header carries its tag; all but the last four are what every phone writes."""

    USUAL = ";tag="
    UPPER = ";TAG="
    SPACED = "; tag="
    SPACED_WIDE = " ; tag = "


@dataclass(frozen=True, slots=True)
class Party:
    """One end of a call.

    Attributes:
        address: The header value without its tag, as a CDR's AOR must say it.
        tag: The tag of this end in this call; '' where the phone sends none.
        contact: The Contact header; its URI parameters are not part of a CDR.
        contact_bare: The same without parameters.
        internal: Whether the proxies find the caller to be one of the installation's own users.
        tag_form: How the tag is written behind the address.
        open_bracket: The header lacks its closing `>`.
    """

    address: str
    tag: str
    contact: str
    contact_bare: str
    internal: bool
    tag_form: TagForm = TagForm.USUAL
    open_bracket: bool = False

    def header(self, *, tagged: bool = True) -> str:
        """The From or To header value as it passes a proxy."""
        address = self.address.removesuffix(">") if self.open_bracket else self.address
        return f"{address}{self.tag_form}{self.tag}" if tagged and self.tag else address

    @property
    def uri(self) -> str:
        """The bare URI, as in a request line."""
        return self.contact_bare.strip("<>")


class Identities:
    """Draws identities from one source of chance; the same source gives the same identities."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def call_id(self) -> str:
        """A Call-ID, unique for any practical number of calls."""
        return f"{self._hex(14)}@10.9.{self._rng.randrange(8)}.{self._rng.randrange(1, 255)}"

    def tag(self) -> str:
        """A dialog tag."""
        return self._hex(8)

    def branch(self) -> str:
        """A Via branch with the cookie of RFC 3261 section 8.1.1.7."""
        return f"z9hG4bK-{self._hex(20)}"

    def cseq(self) -> int:
        """Where a phone's CSeq starts: mostly small, for some phones anywhere."""
        return self._rng.choice((1, 1, 1, 2, 10, 101, self._rng.randrange(3, 60_000)))

    def caller(self, *, name: str | None = None) -> Party:
        """A calling user: an extension of the installation, or a number from outside."""
        internal = self._rng.random() < 0.7
        if internal:
            user = str(self._rng.randrange(2_000, 2_400))
        else:
            user = f"+1555{self._rng.randrange(2_000_000, 9_999_999)}"
        return self._party(user, "10.20", name, internal=internal)

    def callee(self, *, user: str | None = None) -> Party:
        """A called user; callers rarely know its display name."""
        return self._party(
            user or str(self._rng.randrange(2_400, 2_800)), "10.30", "", internal=True
        )

    def same_user(self, party: Party, *, name: str | None = None) -> Party:
        """The same user in another dialog: another tag, the same address and contact."""
        if name is None:
            return replace(party, tag=self.tag())
        user = party.address.split("sip:", 1)[1].split("@", 1)[0]
        return replace(party, tag=self.tag(), address=_address(name, user))

    def another_phone(self, party: Party) -> Party:
        """The same user at another phone: another tag and contact."""
        user = party.address.split("sip:", 1)[1].split("@", 1)[0]
        contact, bare = self._contact(user, "10.31")
        return replace(party, tag=self.tag(), contact=contact, contact_bare=bare)

    def route(self) -> str:
        """The callee's route as the proxy found it; '' for one in twenty."""
        return "" if self._rng.random() < 0.05 else self._rng.choice(ROUTES)

    def _party(self, user: str, network: str, name: str | None, *, internal: bool) -> Party:
        contact, bare = self._contact(user, network)
        if name is None:
            name = self._rng.choice(_NAMES)
        return Party(_address(name, user), self.tag(), contact, bare, internal)

    def _contact(self, user: str, network: str) -> tuple[str, str]:
        host = f"{network}.{self._rng.randrange(16)}.{self._rng.randrange(1, 255)}:5060"
        inner = f"sip:{user}@{host}"
        return f"<{inner}{self._rng.choice(_CONTACT_PARAMETERS)}>", f"<{inner}>"

    def _hex(self, digits: int) -> str:
        return f"{self._rng.getrandbits(4 * digits):0{digits}x}"


def _address(name: str, user: str) -> str:
    return f"{name} <sip:{user}@{DOMAIN}>" if name else f"<sip:{user}@{DOMAIN}>"
