"""Write a small data set in AppWorld's format. Run with the Python that AppWorld is installed in:

    python tests/appworld_data.py DIRECTORY

It has three people, accounts and notes of theirs, and four tasks, all made up here, and is written by AppWorld's own
models and `save` methods: `data/base_dbs`, `data/tasks/ID/{specs.json,dbs,ground_truth}`, `data/datasets` and
`data/api_docs`. Nothing of AppWorld's own data or code is in it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(sys.argv[1]).resolve()
os.environ["APPWORLD_ROOT"] = str(ROOT)
os.environ.setdefault("APPWORLD_CACHE", str(ROOT / "cache"))
(ROOT / "data").mkdir(parents=True, exist_ok=True)

from appworld import update_root  # noqa: E402
from appworld.api_docs import prepare_api_docs  # noqa: E402
from appworld.apps import get_all_apps  # noqa: E402
from appworld.apps.model_lib import CachedDBHandler  # noqa: E402
from appworld.collections.models import ModelCollection  # noqa: E402
from appworld.common.constants import CANARY_STRING, DB_VERSION  # noqa: E402
from appworld.common.datetime import DateTime  # noqa: E402
from appworld.common.utils import freeze_time, write_json  # noqa: E402

NOW = DateTime(2023, 5, 18, 12, 0, 0)
PEOPLE = (("Ida", "Berg"), ("Omar", "Lund"), ("Vera", "Holm"))
NOTES = {
    "Ida": [("Books", "[x] Dunes of Salt\n[ ] The Quiet Harbour\n[ ] A Map of Wind"), ("Rent", "Paid on the 1st")],
    "Omar": [("Books", "[x] Copper Sky\n[x] Low Tide\n[ ] North Road"), ("Recipes", "Lentil soup")],
    "Vera": [("Books", "[ ] Stone and Sea"), ("Gifts", "A kite for Ida")],
}
HEADER = "from appworld.collections.apis import ApiCollection\nfrom appworld.requester import Requester\n\n\n"
SIGNATURE = "def solution(apis: ApiCollection, requester: Requester) -> None:\n"

LOGIN = """\
    profile = apis.supervisor.show_profile()
    passwords = {it["account_name"]: it["password"] for it in apis.supervisor.show_account_passwords()}
    token = apis.APP.login(username=profile["email"], password=passwords["APP"])["access_token"]
"""

BOOKS = (
    LOGIN.replace("APP", "simple_note")
    + """\
    # The list of books is one note.
    notes = apis.simple_note.search_notes(query="Books", access_token=token)
    note = apis.simple_note.show_note(note_id=notes[0]["note_id"], access_token=token)
    unread = 0
    for line in note["content"].splitlines():
        if line.startswith("[ ]"):
            unread += 1
    apis.supervisor.complete_task(answer=unread)
"""
)
PAY = (
    LOGIN.replace("APP", "venmo")
    + """\
    friends = apis.venmo.search_friends(access_token=token)
    friend = next(it for it in friends if it["first_name"] == "RECEIVER")
    apis.venmo.create_transaction(
        receiver_email=friend["email"], amount=AMOUNT, description="Lunch", access_token=token
    )
    apis.supervisor.complete_task()
"""
)
#: A `return` in the middle: this program can only be run as a whole.
EARLY = (
    LOGIN.replace("APP", "simple_note")
    + """\
    notes = apis.simple_note.search_notes(query="Gifts", access_token=token)
    if not notes:
        apis.supervisor.complete_task(status="fail")
        return
    apis.simple_note.update_note(
        note_id=notes[0]["note_id"], title="Presents", access_token=token
    )
    apis.supervisor.complete_task()
"""
)

EVALUATE = "def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer) -> None:\n"
ANSWERED = """\
    answer = json.loads(models.end.supervisor.Task.all()[0].answer)
    with test("assert answers match."):
        test.answer(answer, ground_truth_answer)
"""
EVALUATE_BOOKS = (
    "import json\n\n\n"
    + EVALUATE
    + ANSWERED
    + """\
    with test("assert no model changes."):
        test.case(models.changed_model_names(), "==", set())
"""
)
EVALUATE_PAY = (
    "import json\n\n\n"
    + EVALUATE
    + ANSWERED
    + """\
    with test("assert only users, transactions and notifications changed."):
        test.case(
            models.changed_model_names(), "==", {"venmo.User", "venmo.Transaction", "venmo.Notification"}
        )
    added, updated, removed = models.changed_records("venmo.Transaction")
    with test("assert one transaction was added and none changed."):
        test.case((len(added), len(updated), len(removed)), "==", (1, 0, 0))
    with test("assert the amount and the receiver are right."):
        receiver = models.end.venmo.User.find_one(id=added[0].receiver_id)
        test.case(
            (added[0].amount, receiver.first_name), "==", (private_data["amount"], private_data["receiver"])
        )
"""
)
EVALUATE_GIFTS = (
    "import json\n\n\n"
    + EVALUATE
    + ANSWERED
    + """\
    with test("assert only notes changed."):
        test.case(models.changed_model_names(), "==", {"simple_note.Note"})
    with test("assert the note has its new title."):
        titles = [note.title for note in models.end.simple_note.Note.all()]
        test.case(titles.count("Presents"), "==", 1)
"""
)


def main() -> None:
    """Write the base databases, the documentation of the APIs, the tasks and the lists of tasks."""
    update_root(str(ROOT))
    with freeze_time(NOW):
        write_base()
    write_docs()
    write_task("a1b2c3d_1", "Ida", "How many books on my list have I not read yet?", 1, BOOKS, EVALUATE_BOOKS, 2)
    write_task("a1b2c3d_2", "Omar", "How many books on my list have I not read yet?", 1, BOOKS, EVALUATE_BOOKS, 1)
    pay = PAY.replace("RECEIVER", "Omar").replace("AMOUNT", "12")
    private = {"amount": 12, "receiver": "Omar"}
    write_task("e4f5a6b_1", "Ida", "Send Omar $12 on Venmo for lunch.", 2, pay, EVALUATE_PAY, None, private)
    write_task("c7d8e9f_1", "Vera", "Call my note on gifts Presents.", 3, EARLY, EVALUATE_GIFTS, None)
    write_task("b9a8c7d_1", "Omar", "Call my note on gifts Presents.", 3, EARLY, EVALUATE_GIFTS, None, minimal=True)
    datasets = ROOT / "data" / "datasets"
    datasets.mkdir(exist_ok=True)
    (datasets / "train.txt").write_text("a1b2c3d_1\na1b2c3d_2\ne4f5a6b_1\n")
    (datasets / "dev.txt").write_text("c7d8e9f_1\n")
    (datasets / "test_normal.txt").write_text("b9a8c7d_1\n")


def write_base() -> None:
    """Write data/base_dbs: everything that all tasks begin with."""
    collection = ModelCollection.load(":memory:base", ":memory:base", get_all_apps(), create_db=True)
    venmo = []
    for first, last in PEOPLE:
        names = {"first_name": first, "last_name": last, "email": f"{first.lower()}.{last.lower()}@gmail.com"}
        phone = f"555010{len(venmo)}"
        user = collection.admin.MainUser.create_save(
            **names, phone_number=phone, birthday="1990-04-01", sex="female" if first != "Omar" else "male"
        )
        for app in ("simple_note", "venmo"):
            password = f"{first.lower()}-{app}"
            collection.admin.AccountPassword.create_save(main_user_id=user.id, account_name=app, password=password)
        writer = collection.simple_note.User.create_save(
            **names, password=f"{first.lower()}-simple_note", verified=True, created_at=NOW, last_logged_in=NOW
        )
        for title, content in NOTES[first]:
            collection.simple_note.Note.create_save(user_id=writer.id, title=title, content=content)
        venmo.append(
            collection.venmo.User.create_save(
                **names, password=f"{first.lower()}-venmo", verified=True, venmo_balance=100.0
            )
        )
    for user in venmo:
        for friend in venmo:
            if friend.id != user.id:
                collection.venmo.Friendship.create_save(user_id=user.id, friend_id=friend.id)
    write_api_docs_table(collection)
    collection.save(str(ROOT / "data" / "base_dbs"), format="full", delete_if_exists=True, save_model_hashes=True)
    CachedDBHandler.reset()


def write_api_docs_table(collection: ModelCollection) -> None:
    """Fill the table of the app api_docs, by which agents look APIs up."""
    for app in get_all_apps(skip_admin=True):
        for doc in prepare_api_docs(app, include_private_apis=False):
            values = {key: doc[key] for key in ("api_name", "path", "method", "description", "parameters")}
            collection.api_docs.ApiDoc.create_save(app_name_=app, response_schemas=doc["response_schemas"], **values)


def write_docs() -> None:
    """Write data/api_docs/standard: the documentation of every app, by which AppWorld's own class loads."""
    directory = ROOT / "data" / "api_docs" / "standard"
    directory.mkdir(parents=True, exist_ok=True)
    for app in get_all_apps(skip_admin=True):
        docs = prepare_api_docs(app, include_private_apis=False)
        write_json(
            {doc["api_name"]: {**doc, "canary_string": CANARY_STRING} for doc in docs},
            str(directory / f"{app}.json"),
            silent=True,
        )


def write_task(
    task_id: str,
    supervisor: str,
    instruction: str,
    difficulty: int,
    solution: str,
    evaluation: str,
    answer: object,
    private_data: dict | None = None,
    minimal: bool = False,
) -> None:
    """Write a task.

    Args:
        task_id: Its id, of a scenario and a number.
        supervisor: The first name of the person who asks.
        instruction: What is asked for.
        difficulty: 1 to 3.
        solution: The body of the program that solves it.
        evaluation: The module that judges the result.
        answer: The right answer; None where none is asked for.
        private_data: What the evaluation knows.
        minimal: Whether the solution is left out, as in the test splits.
    """
    directory = ROOT / "data" / "tasks" / task_id
    memory = f":memory:task_input-{task_id}"
    collection = ModelCollection.load(memory, str(ROOT / "data" / "base_dbs"), get_all_apps())
    with freeze_time(NOW):
        person = collection.admin.MainUser.find_one(first_name=supervisor)
        facts = {key: getattr(person, key) for key in ("first_name", "last_name", "email", "phone_number")}
        asking = collection.supervisor.Supervisor.create_save(**facts, birthday=person.birthday, sex=person.sex)
        collection.supervisor.Task.create_save(supervisor_id=asking.id, instruction=instruction)
        for account in person.account_passwords:
            collection.supervisor.AccountPassword.create_save(
                supervisor_id=asking.id, account_name=account.account_name, password=account.password
            )
    collection.save(str(directory / "dbs"), format="changes", delete_if_exists=True, save_model_hashes=True)
    CachedDBHandler.reset()
    write_json(
        {
            "instruction": instruction,
            "supervisor": facts,
            "datetime": NOW.isoformat(),
            "db_version": DB_VERSION,
            "canary_string": CANARY_STRING,
        },
        str(directory / "specs.json"),
        silent=True,
    )
    write_ground_truth(directory / "ground_truth", difficulty, solution, evaluation, answer, private_data, minimal)


def write_ground_truth(
    directory: Path,
    difficulty: int,
    solution: str,
    evaluation: str,
    answer: object,
    private_data: dict | None,
    minimal: bool,
) -> None:
    """Write the folder ground_truth of a task, with the files that `GroundTruth.save` writes."""
    directory.mkdir(exist_ok=True)
    counts = {"num_apps": 1, "num_apis": 5, "num_api_calls": 5, "num_solution_code_lines": solution.count("\n")}
    canary = f"# Canary String: {CANARY_STRING}\n"
    requirements = re.findall(r'with test\("(.*)"\)', evaluation)
    (directory / "evaluation.py").write_text(canary + evaluation)
    for name, value in (
        ("public_data", {}),
        ("private_data", private_data or {}),
        ("answer", answer),
        ("test_data", [{"requirement": it, "label": "no_op_fail"} for it in requirements]),
        ("metadata", {"mode": "minimal" if minimal else "full", "difficulty": difficulty, **counts}),
    ):
        (directory / f"{name}.json").write_text(json.dumps(value))
    if minimal:
        return
    program = HEADER + SIGNATURE + solution
    (directory / "compiled_solution.py").write_text(canary + program)
    (directory / "solution.py").write_text(canary + program)
    (directory / "generator.py").write_text(canary)
    (directory / "required_apps.json").write_text("[]")
    (directory / "api_calls.json").write_text("[]")


if __name__ == "__main__":
    main()
