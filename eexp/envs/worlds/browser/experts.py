"""Experts for pages of MiniWoB++: each reads the instruction and the page as an agent does, and returns an action.

An expert is a function of the instruction, the view and the actions so far, and knows nothing else. It returns None
where it knows no action.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from eexp.envs.worlds.browser.lines import Line, View, quoted

Expert = Callable[[str, View, list[str]], "str | None"]

EXPERTS: dict[str, Expert] = {}

_QUOTED = re.compile(r'"([^"]*)"')
_MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]


def _expert(*pages: str) -> Callable[[Expert], Expert]:
    def register(function: Expert) -> Expert:
        EXPERTS.update(dict.fromkeys(pages, function))
        return function

    return register


# -- what the experts look for -----------------------------------------------------------------------------------------


def _click(line: Line | None) -> str | None:
    return f"click [{line.id}]" if line is not None and line.clickable else None


def _elements(view: View, *roles: str) -> list[Line]:
    return [line for line in view.lines if line.role in roles and line.id is not None]


def _named(view: View, name: str, *roles: str) -> Line | None:
    """Return the first element with a name that can be clicked."""
    for line in view.lines:
        if line.clickable and line.name == name and (not roles or line.role in roles):
            return line
    return None


def _button(view: View, *names: str) -> str | None:
    """Return a click on the button with one of these names; without names, on the last button."""
    buttons = _elements(view, "button", "clickable") if names else _elements(view, "button")
    matching = [line for line in buttons if not names or line.name.casefold() in {name.casefold() for name in names}]
    return _click(matching[-1]) if matching else None


def _submit(view: View) -> str | None:
    return _button(view, "submit")


def _phrases(instruction: str) -> list[str]:
    return _QUOTED.findall(instruction)


def _between(instruction: str, pattern: str) -> str:
    match = re.search(pattern, instruction)
    return match[1] if match else ""


def _fill(view: View, texts: Iterable[tuple[Line, str]]) -> str | None:
    """Return the action that types the first text that its field does not hold yet; None where all hold theirs."""
    for line, text in texts:
        shown = "•" * len(text) if line.value and set(line.value) == {"•"} else text
        if line.value != shown:
            return f"type [{line.id}] {quoted(text)}"
    return None


def _ordinal(text: str) -> int:
    """Return the number in `2nd`."""
    match = re.search(r"(\d+)(?:st|nd|rd|th)", text)
    return int(match[1]) if match else 0


# -- buttons, links, tabs, dialogs -------------------------------------------------------------------------------------


@_expert("click-test")
def _only_button(instruction: str, view: View, played: list[str]) -> str | None:
    return _button(view)


@_expert("click-test-2", "click-test-transfer")
def _button_after_word(instruction: str, view: View, played: list[str]) -> str | None:
    return _button(view, _between(instruction, r"button (\w+)"))


@_expert("click-button", "click-dialog-2", "unicode-test", "click-dialog")
def _quoted_button(instruction: str, view: View, played: list[str]) -> str | None:
    (name, *_) = _phrases(instruction) or [""]
    return _click(_named(view, "Close" if name == "x" else name, "button"))


@_expert("click-button-sequence")
def _buttons_in_order(instruction: str, view: View, played: list[str]) -> str | None:
    clicked = {f"click [{line.id}]": line.name for line in view.lines if line.clickable}
    names = [clicked.get(action) for action in played]
    return _button(view, "TWO" if "ONE" in names else "ONE")


@_expert("click-link")
def _quoted_link(instruction: str, view: View, played: list[str]) -> str | None:
    (name, *_) = _phrases(instruction) or [""]
    return _click(_named(view, name, "clickable", "link"))


@_expert("click-tab")
def _tab(instruction: str, view: View, played: list[str]) -> str | None:
    return _click(_named(view, _between(instruction, r"(Tab #\d+)"), "tab"))


@_expert("click-collapsible", "click-collapsible-nodelay")
def _open_and_submit(instruction: str, view: View, played: list[str]) -> str | None:
    closed = [tab for tab in _elements(view, "tab") if tab.name and "collapsed" in tab.states]
    return _click(closed[0]) if closed else _submit(view)


@_expert("click-tab-2", "click-tab-2-easy", "click-tab-2-medium", "click-tab-2-hard")
@_expert("click-collapsible-2", "click-collapsible-2-nodelay")
def _link_in_sections(instruction: str, view: View, played: list[str]) -> str | None:
    """Look into the tabs from the first to the last that was not opened yet, until the link is there."""
    if link := _quoted_link(instruction, view, played):
        return link
    for tab in _elements(view, "tab"):
        if "expanded" not in tab.states and f"click [{tab.id}]" not in played:
            return _click(tab)
    return None


@_expert("navigate-tree")
def _item_in_tree(instruction: str, view: View, played: list[str]) -> str | None:
    """Open the folders from the top until the item is there."""
    (name, *_) = _phrases(instruction) or [""]
    if item := _named(view, name, "clickable"):
        return _click(item)
    closed = [line for line in _elements(view, "clickable") if "expandable" in line.source]
    return _click(closed[0]) if closed else None


@_expert("click-menu")
def _item_of_menu(instruction: str, view: View, played: list[str]) -> str | None:
    names = _between(instruction, r"Select (.+)").split(">")
    path = [_named(view, name.strip(), "menuitem") for name in names]
    if path[-1] is not None:
        return _click(path[-1])
    shown = [line for line in path if line is not None]
    return f"hover [{shown[-1].id}]" if shown else None


# -- choices -----------------------------------------------------------------------------------------------------------


@_expert("click-option")
def _radio(instruction: str, view: View, played: list[str]) -> str | None:
    chosen = _named(view, _between(instruction, r"Select (.+) and click Submit"), "radio")
    if chosen is None:
        return None
    return _submit(view) if "checked" in chosen.states else _click(chosen)


@_expert("click-checkboxes", "click-checkboxes-large", "click-checkboxes-transfer")
def _checkboxes(instruction: str, view: View, played: list[str]) -> str | None:
    names = _between(instruction, r"Select (.+) and click Submit").split(", ")
    for box in _elements(view, "checkbox"):
        if ("checked" in box.states) != (box.name in names):
            return _click(box)
    return _submit(view)


@_expert("choose-list")
def _option(instruction: str, view: View, played: list[str]) -> str | None:
    name = _between(instruction, r"Select (.+) from the list")
    for chosen in _elements(view, "combobox"):
        if chosen.value != name:
            return f"select [{chosen.id}] {quoted(name)}"
    return _submit(view)


@_expert("click-scroll-list")
def _options(instruction: str, view: View, played: list[str]) -> str | None:
    names = _between(instruction, r"Select (.+) from the scroll list").split(", ")
    for listbox in _elements(view, "listbox"):
        for option, chosen in zip(listbox.options or (), listbox.selected or ()):
            if chosen != (option in names):
                return f"select [{listbox.id}] {quoted(option)}"
    return _submit(view)


@_expert("click-color")
def _color(instruction: str, view: View, played: list[str]) -> str | None:
    color = _between(instruction, r"Click on the (\w+) colored box")
    names = {"aqua": "cyan", "gray": "grey"}
    boxes = [line for line in _elements(view, "clickable") if line.color in (color, names.get(color))]
    return _click(boxes[0]) if boxes else None


@_expert("click-widget")
def _widget(instruction: str, view: View, played: list[str]) -> str | None:
    (kind, *_) = _phrases(instruction) or [""]
    role = "textbox" if kind in ("text", "textarea") else kind
    found = [line for line in _elements(view, role) if ("many lines" in line.states) == (kind == "textarea")]
    return _click(found[0]) if found else None


@_expert("grid-coordinate")
def _grid(instruction: str, view: View, played: list[str]) -> str | None:
    match = re.search(r"\((-?\d),(-?\d)\)", instruction)
    circles = [line for line in _elements(view, "clickable") if line.shape == "circle"]
    if not match:
        return None
    place = f"{75 + 30 * int(match[1])},{75 - 30 * int(match[2])}"
    return next((_click(line) for line in circles if line.place == place), None)


@_expert("identify-shape")
def _kind_of_shape(instruction: str, view: View, played: list[str]) -> str | None:
    drawn = next((line for line in view.lines if line.shape), None)
    if drawn is None:
        return None
    kinds = {"rect": "Rectangle", "circle": "Circle", "triangle": "Triangle"}
    return _button(view, kinds.get(drawn.shape) or ("Number" if drawn.name.isdecimal() else "Letter"))


# -- fields ------------------------------------------------------------------------------------------------------------


def _type_and_submit(view: View, texts: list[str]) -> str | None:
    fields = [line for line in _elements(view, "textbox", "spinbutton") if line.editable]
    return _fill(view, zip(fields, texts)) or _submit(view)


@_expert("enter-text", "enter-text-dynamic")
def _quoted_text(instruction: str, view: View, played: list[str]) -> str | None:
    return _type_and_submit(view, _phrases(instruction))


@_expert("enter-text-2")
def _text_in_case(instruction: str, view: View, played: list[str]) -> str | None:
    (text, *_) = _phrases(instruction) or [""]
    return _type_and_submit(view, [text.upper() if "upper case" in instruction else text.lower()])


@_expert("enter-password")
def _password(instruction: str, view: View, played: list[str]) -> str | None:
    return _type_and_submit(view, _phrases(instruction)[:1] * 2)


@_expert("login-user", "login-user-popup")
def _login(instruction: str, view: View, played: list[str]) -> str | None:
    fields = [line for line in _elements(view, "textbox") if line.editable]
    if not fields:  # a message is in the way
        return _button(view, "Cancel")
    return _fill(view, zip(fields, _phrases(instruction))) or _button(view, "Login", "OK")


@_expert("enter-date")
def _date(instruction: str, view: View, played: list[str]) -> str | None:
    month, day, year = (_between(instruction, r"(\d+/\d+/\d+)") or "//").split("/")
    return _type_and_submit(view, [f"{year}-{month}-{day}"])


@_expert("enter-time")
def _time(instruction: str, view: View, played: list[str]) -> str | None:
    match = re.search(r"(\d+):(\d+)\s(AM|PM)", instruction)
    if not match:
        return None
    hour = int(match[1]) % 12 + 12 * (match[3] == "PM")
    return _type_and_submit(view, [f"{hour:02d}:{match[2]}"])


@_expert("focus-text")
def _focus(instruction: str, view: View, played: list[str]) -> str | None:
    return _click(next(iter(_elements(view, "textbox")), None))


@_expert("focus-text-2")
def _focus_one(instruction: str, view: View, played: list[str]) -> str | None:
    fields = _elements(view, "textbox")
    return _click(fields[_ordinal(instruction) - 1]) if len(fields) >= _ordinal(instruction) > 0 else None


@_expert("use-spinner")
def _spinner(instruction: str, view: View, played: list[str]) -> str | None:
    wanted = int(_between(instruction, r"Select (-?\d+)") or 0)
    field = next(iter(_elements(view, "spinbutton")), None)
    return field and (_step_to(field, int(field.value or 0), wanted, "ARROW_UP", "ARROW_DOWN") or _submit(view))


@_expert("form-sequence")
def _slider_and_box(instruction: str, view: View, played: list[str]) -> str | None:
    """Move the slider by keys: the text below it says where it stands. Then check the box and submit."""
    wanted = int(_between(instruction, r"Select (-?\d+)") or 0)
    slider = next((line for line in _elements(view, "clickable") if "slider" in line.source), None)
    value = next((int(line.text) for line in view.lines if re.fullmatch(r"-?\d+", line.text)), None)
    if slider is None or value is None:
        return None
    if key := _step_to(slider, value, wanted, "ARROW_RIGHT", "ARROW_LEFT"):
        return key
    box = _elements(view, "checkbox")[_ordinal(instruction) - 1]
    return _submit(view) if "checked" in box.states else _click(box)


def _step_to(line: Line, value: int, wanted: int, up: str, down: str) -> str | None:
    """Return the action that moves the value of an element by keys; None where it is the wanted one."""
    if value == wanted:
        return None
    return f"key {up if value < wanted else down}" if "focused" in line.states else _click(line)


@_expert("find-word")
def _word(instruction: str, view: View, played: list[str]) -> str | None:
    words = next((line.text for line in view.lines if line.text), "").split()
    number = _ordinal(instruction)
    return _type_and_submit(view, [words[number - 1].strip(".,")]) if len(words) >= number > 0 else None


@_expert("copy-paste", "copy-paste-2")
def _copied(instruction: str, view: View, played: list[str]) -> str | None:
    fields = _elements(view, "textbox")
    (target,) = [line for line in fields if "answer" in line.source] or [None]
    if target is None:
        return None
    source = [line for line in fields if line is not target][max(_ordinal(instruction), 1) - 1]
    return _fill(view, [(target, source.value or "")]) or _submit(view)


@_expert("simple-arithmetic")
def _sum(instruction: str, view: View, played: list[str]) -> str | None:
    match = re.search(r"(-?\d+) ([-+x*]) (-?\d+) =", _texts_of(view))
    if not match:
        return None
    a, b = int(match[1]), int(match[3])
    return _type_and_submit(view, [str({"+": a + b, "-": a - b}.get(match[2], a * b))])


@_expert("simple-algebra")
def _equation(instruction: str, view: View, played: list[str]) -> str | None:
    """Solve an equation with one operation and x on one of its sides."""
    match = re.search(r"(x|-?\d+) ([-+]) (x|-?\d+) = (-?\d+)", _texts_of(view))
    if not match:
        return None
    left, sign, right, result = match[1], match[2], match[3], int(match[4])
    if left == "x":
        x = result - int(right) if sign == "+" else result + int(right)
    else:
        x = result - int(left) if sign == "+" else int(left) - result
    return _type_and_submit(view, [str(x)])


def _texts_of(view: View) -> str:
    return " ".join(line.text for line in view.lines if line.text)


@_expert("read-table")
def _cell(instruction: str, view: View, played: list[str]) -> str | None:
    texts = [line.text for line in view.lines if line.text]
    key = _between(instruction, r"value of (.+) into")
    return _type_and_submit(view, [dict(zip(texts[::2], texts[1::2])).get(key, "")])


@_expert("read-table-2")
def _cells(instruction: str, view: View, played: list[str]) -> str | None:
    texts = [line.text for line in view.lines if line.text]
    labels = [text.rstrip(":") for text in texts if text.endswith(":")]
    cells = dict(zip(texts[::2], texts[1::2]))
    return _type_and_submit(view, [cells.get(label, "") for label in labels])


@_expert("multi-orderings", "multi-layouts")
def _search_form(instruction: str, view: View, played: list[str]) -> str | None:
    match = re.search(r"Search for (.+) movies directed by (.+) from year (.+)\.", instruction)
    if not match:
        return None
    wanted = {"genre": match[1], "director": match[2], "year": match[3], "date": match[3]}
    label, texts, lines = "", [], view.lines
    fields = [i for i, line in enumerate(lines) if line.role == "textbox"]
    if fields and any(_wanted(line.text, wanted) for line in lines[fields[-1] + 1 :]):
        lines = lines[::-1]  # each label stands below its field
    for line in lines:
        label = line.text or label
        if line.role == "textbox":
            texts.append((line, _wanted(line.name or label, wanted)))
    return _fill(view, texts) or _button(view, "Submit", "Go!", "Search")


def _wanted(label: str, wanted: dict[str, str]) -> str:
    """Return the text for the field with a label; nothing if the label names none."""
    return next((text for word, text in wanted.items() if word in label.casefold()), "")


@_expert("use-autocomplete", "use-autocomplete-nodelay")
def _completed(instruction: str, view: View, played: list[str]) -> str | None:
    start, *end = _phrases(instruction) or [""]
    (field, *_) = [line for line in _elements(view, "textbox") if line.editable] or [None]
    if field is None:
        return None
    value = field.value or ""
    if value.startswith(start) and value != start and value.endswith(end[0] if end else ""):
        return _submit(view)
    for line in _elements(view, "clickable", "menuitem", "option"):
        if line.name.startswith(start) and line.name.endswith(end[0] if end else "") and line.name != "Submit":
            return _click(line)
    return f"type [{field.id}] {quoted(start)}"


@_expert("choose-date-easy", "choose-date-medium", "choose-date", "choose-date-nodelay")
def _calendar(instruction: str, view: View, played: list[str]) -> str | None:
    wanted = _between(instruction, r"(\d+/\d+/\d+)")
    month, day, year = map(int, (wanted or "0/0/0").split("/"))
    field = next(iter(_elements(view, "textbox")), None)
    if field is None:
        return None
    if field.value == wanted:
        return _submit(view)
    heading = next((line.text for line in view.lines if re.fullmatch(r"[A-Z][a-z]+ \d{4}", line.text)), None)
    if heading is None:
        return _click(field)
    shown = int(heading.split()[1]) * 12 + _MONTHS.index(heading.split()[0])
    if shown != year * 12 + month - 1:
        return _click(_named(view, "Prev" if shown > year * 12 + month - 1 else "Next", "link"))
    return _click(_named(view, str(day), "link"))


@_expert("search-engine")
def _result(instruction: str, view: View, played: list[str]) -> str | None:
    (text, *_) = _phrases(instruction) or [""]
    field = next((line for line in _elements(view, "textbox") if line.editable), None)
    if field is not None and field.value != text:
        return f"type [{field.id}] {quoted(text)}"
    links = _elements(view, "link")
    results = [line for line in links if not line.name.isdecimal() and line.name not in "<>"]
    search = _button(view, "Search")
    if not results or search is None or search not in played:
        return search
    page, place = divmod(_ordinal(instruction) - 1, 3)
    if page and played[-1] == search:  # the search shows its first three results
        return _click(_named(view, str(page + 1), "link"))
    return _click(results[place])


# -- posts and messages ------------------------------------------------------------------------------------------------


def _posts(view: View, user: str) -> list[list[Line]]:
    """Return the buttons below each post of a user, `@name`."""
    posts, current = [], None
    for line in view.lines:
        if match := re.search(r"@\w+", line.text):
            current = [] if match[0] == user else None
            if current is not None:
                posts.append(current)
        elif line.id is not None and current is not None and line.role == "clickable":
            current.append(line)
    return posts


@_expert("social-media-all", "social-media-some")
def _act_on_posts(instruction: str, view: View, played: list[str]) -> str | None:
    (name, *_) = _phrases(instruction) or [""]
    posts = _posts(view, _between(instruction, r"by (@\w+)"))
    count = _between(instruction, r"on (\d+) posts?")
    for post in posts[: int(count)] if count else posts:
        for line in post:
            if line.source.startswith(f".{name.lower()}") and f"click [{line.id}]" not in played:
                return _click(line)
    return _submit(view)


@_expert("email-inbox", "email-inbox-noscroll", "email-inbox-important", "email-inbox-delete")
@_expert("email-inbox-reply", "email-inbox-forward", "email-inbox-star-reply")
def _mail(instruction: str, view: View, played: list[str]) -> str | None:
    """Find a message by its sender; mark or delete it in the list, or open it to reply or forward."""
    sender = _between(instruction, r"email by ([\w-]+)")
    at = next((i for i, line in enumerate(view.lines) if line.clickable and line.name.startswith(f"{sender} ")), None)
    for icon, words in ((".star", "star icon"), (".trash", "trash icon")):
        if words in instruction:
            below = view.lines[at + 1 : at + 3] if at is not None else []
            return next((_click(line) for line in below if line.source.startswith(icon)), None)
    if at is not None:
        return _click(view.lines[at])
    receiver, text = _between(instruction, r"forward that email to ([\w-]+)"), [*_phrases(instruction), ""][0]
    fields = [line for line in _elements(view, "textbox") if line.editable]
    if not fields:
        return _button(view, "Forward" if receiver else "Reply")
    wanted = [(fields[0], receiver)] if receiver else [(fields[-1], text)]
    send = next((line for line in _elements(view, "clickable", "button") if "send" in line.source), None)
    return _fill(view, wanted) or _click(send)
