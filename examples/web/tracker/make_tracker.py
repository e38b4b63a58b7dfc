"""Make two trackers of Roundup in a directory, with what contents.toml says. They are the same each time.

python make_tracker.py DIRECTORY

`tracker` has Roundup's classic pages. `board` has the same contents in its `jinja2` pages, which look different. The
trackers send no mail, and their clock stands still at 1 March 2024.
"""

from __future__ import annotations

import sys
import sysconfig
from datetime import datetime, timezone
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
from roundup import date, init, instance, password
from roundup.configuration import CoreConfig

CONTENTS = Path(__file__).with_name("contents.toml")
LOOKS = {"tracker": "classic", "board": "jinja2"}
PASSWORD = "ride-on"  # of everyone
SITE = "http://site.test"  # the name by which `web` shows the site to its browser

#: Runs in the server, too, which reads it as the tracker's interfaces.py.
CLOCK = """
from datetime import datetime, timezone

from roundup import date

date.Date.now = lambda self: datetime(2024, 3, 1, 9, 0, tzinfo=timezone.utc)
"""


def make(home: Path, template: str) -> None:
    """Make one tracker in a directory."""
    templates = Path(sysconfig.get_path("data")) / "share" / "roundup" / "templates"
    init.install(str(home), str(templates / template))
    (home / "interfaces.py").write_text(CLOCK)
    (home / "detectors" / "nosyreaction.py").unlink()  # it sends mail
    (home / "static" / "simplemde.min.js").unlink(missing_ok=True)  # an editor that draws its text; a plain field stays
    config = CoreConfig()
    for name, value in {
        "TRACKER_NAME": "Town Bikes",
        "TRACKER_WEB": f"{SITE}/{home.name}/",
        "TRACKER_EMAIL": "bikes@site.test",
        "ADMIN_EMAIL": "admin@site.test",
        "MAIL_DOMAIN": "site.test",
        "MAILHOST": "localhost",
        "TEMPLATE_ENGINE": "jinja2" if template == "jinja2" else "zopetal",
        "STATIC_FILES": "static" if (home / "static").is_dir() else "",
        "RDBMS_BACKEND": "sqlite",
        "WEB_LOGIN_ATTEMPTS_MIN": "0",
        "PASSWORD_PBKDF2_DEFAULT_ROUNDS": "1000",
    }.items():
        config[name] = value
    config.save(str(home / "config.ini"))
    tracker = instance.open(str(home))
    tracker.init(password.Password(PASSWORD, config=config))
    db = tracker.open("admin")
    try:
        _fill(db, config)
        db.commit()
    finally:
        db.close()


def _fill(db, config: CoreConfig) -> None:
    contents = tomllib.loads(CONTENTS.read_text())
    _set_day(1)
    users: dict[str, str] = {}
    for user in contents["users"]:
        users[user["name"]] = db.user.create(
            username=user["name"],
            realname=user["real"],
            organisation=user["organisation"],
            phone=user["phone"],
            address=f"{user['name']}@site.test",
            password=password.Password(PASSWORD, config=config),
            roles="User",
        )
    keywords = {name: db.keyword.create(name=name) for name in contents["keywords"]}
    for issue in contents["issue"]:
        _set_day(issue["day"])
        texts = []
        for message in issue.get("messages", []):
            author, text = message["author"], message["text"]
            db.setCurrentUser(author)
            texts.append(db.msg.create(author=users[author], date=date.Date("."), content=text, summary=text))
        db.setCurrentUser(issue["reporter"])
        db.issue.create(
            title=issue["title"],
            priority=db.priority.lookup(issue["priority"]),
            status=db.status.lookup(issue["status"]),
            assignedto=users.get(issue.get("assigned", "")),
            keyword=[keywords[word] for word in issue.get("keywords", [])],
            nosy=[users[issue["reporter"]]],
            messages=texts,
            superseder=[str(issue["superseder"])] if "superseder" in issue else [],
        )


def _set_day(day: int) -> None:
    moment = datetime(2024, 2, day, 9, 0, tzinfo=timezone.utc)
    date.Date.now = lambda self: moment


if __name__ == "__main__":
    for name, template in LOOKS.items():
        make(Path(sys.argv[1]) / name, template)
