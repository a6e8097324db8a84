"""The page as a browser reads it: parsed, so that nothing of the data can be markup."""

from html.parser import HTMLParser

from app.web.preview_page import POLICY, page
from core.text.files.examples import PromptCompletion
from core.text.preview import preview
from core.text.render_settings import RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'</style></title>&amp;"


class ParsedPage(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def classes(self, tag: str) -> list[str]:
        return [attributes.get("class") or "" for name, attributes in self.tags if name == tag]


def made(
    tokenizer: TextTokenizer, *examples: PromptCompletion, weight: float = 0.1, max_length: int = 400
) -> ParsedPage:
    settings = RenderSettings(prompt_loss_weight=weight, max_length=max_length, over_length="truncate_prompt")
    return ParsedPage(page(preview(examples, Renderer(tokenizer, settings), limit=2), model="tiny"))


def test_data_is_text_and_never_markup(byte_tokenizer: TextTokenizer) -> None:
    found = made(byte_tokenizer, PromptCompletion(1, ATTACK, ATTACK), weight=0.0)
    assert found.text.count(ATTACK.replace(" ", "␣")) == 2
    names = {name for name, _ in found.tags}
    assert not names & {"script", "img", "iframe", "object", "link", "a", "form"}
    assert not [key for _, attributes in found.tags for key in attributes if key.startswith("on") or key == "src"]


def test_the_page_needs_nothing_else(byte_tokenizer: TextTokenizer) -> None:
    html = made(byte_tokenizer, PromptCompletion(1, "p", "c"))
    policies = [a["content"] for name, a in html.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]
    style = html.text[: html.text.index("Loramill preview")]
    assert "url(" not in style
    assert "@import" not in style


def test_each_mark_is_told_by_label_and_class(byte_tokenizer: TextTokenizer) -> None:
    found = made(byte_tokenizer, PromptCompletion(1, "a" * 20, "c"), max_length=10)
    assert found.classes("bdi") == ["cut", "untrained", "partly", "trained", "trained"]
    for label in (
        "cut off, never seen",
        "first token, not trained",
        "prompt, weight 0.1",
        "completion, trained",
        "end token, trained",
    ):
        assert label in found.text
    assert "special" in found.classes("span")
    assert ("p", {"class": "note"}) in found.tags


def test_a_token_tells_its_id_weight_and_reason(byte_tokenizer: TextTokenizer) -> None:
    titles = [a["title"] for _, a in made(byte_tokenizer, PromptCompletion(1, "pq", "c")).tags if a.get("title")]
    assert titles == [
        "id 112 · weight 0 · first token, not trained",
        "id 113 · weight 0.1 · prompt, weight 0.1",
        "id 99 · weight 1 · completion, trained",
        "id 256 · weight 1 · end token, trained",
    ]


def test_lines_break_where_the_text_breaks(byte_tokenizer: TextTokenizer) -> None:
    found = made(byte_tokenizer, PromptCompletion(1, "a\nb\n", "c"), weight=0.0)
    assert [name for name, _ in found.tags].count("br") == 2
    assert "a↵b↵" in found.text


def test_more_examples_are_announced(byte_tokenizer: TextTokenizer) -> None:
    examples = [PromptCompletion(line, "p", "c") for line in (3, 5, 9)]
    assert "More examples follow line 5" in made(byte_tokenizer, *examples).text
    assert "More examples follow" not in made(byte_tokenizer, *examples[:2]).text
