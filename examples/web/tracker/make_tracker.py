"""Make two trackers of Roundup in a directory: reports about the shared bicycles of a town, invented. The same each time.

python make_tracker.py DIRECTORY

`tracker` has Roundup's classic pages. `board` has the same contents in its `jinja2` pages, which look and read differently.
The trackers send no mail, and their clock stands still at 1 March 2024, so that pages and rows have no time of day.
"""

from __future__ import annotations

import sys
import sysconfig
from datetime import datetime, timezone
from pathlib import Path

from roundup import date, init, instance, password
from roundup.configuration import CoreConfig

LOOKS = {"tracker": "classic", "board": "jinja2"}
PASSWORD = "ride-on"  # of everyone
SITE = "http://site.test"  # the name by which `web` shows the site to its browser

#: Runs in the server, too, which reads it as the tracker's interfaces.py.
CLOCK = """
from datetime import datetime, timezone

from roundup import date

date.Date.now = lambda self: datetime(2024, 3, 1, 9, 0, tzinfo=timezone.utc)
"""

USERS = [  # name, real name, organisation, phone
    ("anna", "Anna Berg", "Workshop", "555-0101"),
    ("ben", "Ben Osei", "App team", "555-0102"),
    ("carla", "Carla Ruiz", "Docks", "555-0103"),
    ("devika", "Devika Rao", "Docks", "555-0104"),
    ("emil", "Emil Novak", "Accounts", "555-0105"),
    ("fay", "Fay Lindqvist", "Support", "555-0106"),
    ("greta", "Greta Holm", "Workshop", "555-0107"),
]
KEYWORDS = ["app", "battery", "brakes", "docks", "invoices", "map", "safety"]

#: Title, priority, status, assigned to, keywords, reported by, day of February 2024, and messages: author and text.
ISSUES = [
    ("Brake lever of bike 114 comes off", "critical", "in-progress", "anna", "brakes,safety", "fay", 1, [
        ("fay", "A customer had the lever in her hand at the crossing of Mill Lane."),
        ("anna", "The clamp is cracked. I ordered part BL-20."),
    ]),
    ("Dock 7 at the harbour does not lock", "urgent", "in-progress", "carla", "docks", "fay", 1, [
        ("carla", "The bolt is bent. A new one comes on Monday."),
    ]),
    ("App shows yesterday's free bikes", "bug", "chatting", "ben", "app,map", "carla", 2, [
        ("ben", "Which phone is this on?"),
        ("carla", "An old one with version 3.1 of the app."),
    ]),
    ("Invoice counts a ride twice", "urgent", "chatting", "emil", "invoices", "fay", 2, [
        ("fay", "The customer is Mr Okafor, invoice 2291."),
        ("emil", "Both rides have the same start. It is a fault of the import."),
    ]),
    ("Battery of bike 32 swells", "critical", "unread", None, "battery,safety", "greta", 3, [
        ("greta", "I have taken it off the street and put it into the sand box."),
    ]),
    ("Show docks with a charger on the map", "feature", "deferred", "ben", "app,map,docks", "devika", 3, []),
    ("Bell of bike 58 is missing", "bug", "resolved", "greta", "", "fay", 4, [
        ("greta", "I put on a new one."),
    ]),
    ("Ride does not end at the station Old Town", "urgent", "testing", "ben", "app,docks", "fay", 5, [
        ("ben", "The dock's clock was wrong. Version 3.3 no longer asks it."),
    ]),
    ("Wrong street name: Mill Lane is called Mill Road", "bug", "unread", None, "map", "carla", 5, []),
    ("Offer invoices by letter", "wish", "deferred", "emil", "invoices", "fay", 6, []),
    ("Front light of bike 77 flickers", "bug", "in-progress", "anna", "battery", "greta", 6, [
        ("anna", "The contact was loose on the left side."),
    ]),
    ("Dock 3 at the station is under water after rain", "urgent", "need-eg", "devika", "docks", "carla", 7, [
        ("devika", "Please send a picture when it happens again."),
    ]),
    ("App forgets the customer's card", "bug", "testing", "ben", "app,invoices", "emil", 7, []),
    ("Brake pads of series B wear out in a month", "urgent", "in-progress", "anna", "brakes", "anna", 8, [
        ("anna", "All forty bikes of series B have the soft pads. Bike 114 has them, too."),
        ("greta", "The hard pads cost 4.20 each at Velora."),
    ]),
    ("Dark colours for the app", "wish", "unread", None, "app", "ben", 8, []),
    ("Dock 7 at the harbour: the screw is loose again", "bug", "unread", None, "docks", "devika", 9, []),
    ("Battery percentage is above 100", "bug", "done-cbb", "ben", "app,battery", "greta", 9, [
        ("ben", "It is cut off at 100 now. The sensor is still wrong."),
    ]),
    ("Chain guard of bike 19 is bent", "bug", "resolved", "anna", "", "devika", 10, []),
    ("Customers are charged for a dock that was full", "urgent", "unread", None, "invoices,docks", "fay", 10, [
        ("fay", "Six calls since Saturday, all from the station Riverside."),
    ]),
    ("Saddle of bike 45 turns", "bug", "in-progress", "greta", "safety", "fay", 11, []),
    ("Show the way to the next free dock", "feature", "chatting", "ben", "app,map,docks", "carla", 12, [
        ("carla", "Customers ask for this more than for anything else."),
    ]),
    ("Discount for students on invoices", "feature", "deferred", "emil", "invoices", "fay", 12, []),
    ("Charger at Castle Hill is hot", "critical", "in-progress", "devika", "battery,docks,safety", "devika", 13, [
        ("devika", "I switched it off. 71 degrees at the plug."),
    ]),
    ("The map is blank without a network", "bug", "chatting", "ben", "app,map", "fay", 14, [
        ("ben", "That is how it was built, but we can keep the last one."),
    ]),
    ("Brake cable of bike 88 is frayed", "critical", "testing", "greta", "brakes,safety", "anna", 15, [
        ("greta", "A new cable is on. Anna rides it until Friday."),
    ]),
    ("The station North Gate is missing on the map", "bug", "unread", None, "map", "devika", 16, []),
    ("Invoice shows the wrong year", "bug", "resolved", "emil", "invoices", "emil", 17, []),
    ("Bikes with a child seat", "wish", "deferred", None, "", "fay", 18, []),
    ("App asks for the phone number at each start", "bug", "in-progress", "ben", "app", "carla", 19, []),
    ("Dock 12 at the park beeps all night", "bug", "chatting", "carla", "docks", "fay", 20, [
        ("fay", "The neighbours called twice. The number of the meter is 4471."),
        ("carla", "I will turn the volume down."),
    ]),
    ("Reflectors for series B", "feature", "unread", None, "safety", "greta", 21, []),
    ("App crashes when a ride begins in a tunnel", "urgent", "need-eg", "ben", "app", "fay", 22, [
        ("ben", "I cannot see it here. Which tunnel?"),
    ]),
]  # fmt: skip
#: Issues that another one stands for: the number, and that of the other one.
SUPERSEDED = {16: 2}


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
    _set_day(1)
    users = {}
    for name, real, organisation, phone in USERS:
        users[name] = db.user.create(
            username=name,
            realname=real,
            organisation=organisation,
            phone=phone,
            address=f"{name}@site.test",
            password=password.Password(PASSWORD, config=config),
            roles="User",
        )
    keywords = {name: db.keyword.create(name=name) for name in KEYWORDS}
    for title, priority, status, assigned, words, reporter, day, messages in ISSUES:
        _set_day(day)
        db.setCurrentUser(reporter)
        texts = []
        for author, text in messages:
            db.setCurrentUser(author)
            texts.append(db.msg.create(author=users[author], date=date.Date("."), content=text, summary=text[:60]))
        db.setCurrentUser(reporter)
        db.issue.create(
            title=title,
            priority=db.priority.lookup(priority),
            status=db.status.lookup(status),
            assignedto=users[assigned] if assigned else None,
            keyword=[keywords[word] for word in words.split(",") if word],
            nosy=[users[reporter]],
            messages=texts,
        )
    for number, other in SUPERSEDED.items():
        db.issue.set(str(number), superseder=[str(other)])


def _set_day(day: int) -> None:
    moment = datetime(2024, 2, day, 9, 0, tzinfo=timezone.utc)
    date.Date.now = lambda self: moment


if __name__ == "__main__":
    for name, template in LOOKS.items():
        make(Path(sys.argv[1]) / name, template)
