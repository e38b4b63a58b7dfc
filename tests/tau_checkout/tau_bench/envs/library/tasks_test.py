from tau_bench.types import Action, Task

TASKS = [
    Task(
        annotator="0",
        user_id="ada_moss_410",
        instruction=(
            "You are Ada Moss, ada.moss3@mail.example. "
            "You want to know the genre of Two Harbours and how many paper copies of Counting Stars there are."
        ),
        actions=[],
        outputs=["travel", "3"],
    ),
    Task(
        annotator="0",
        user_id="dag_lund_449",
        instruction="You are Dag Lund, dag.lund6@mail.example. Call the genre travel journeys from now on.",
        actions=[Action(name="rename_genre", kwargs={"old": "travel", "new": "journeys"})],
        outputs=[],
    ),
    Task(
        annotator="0",
        user_id="cleo_varga_436",
        instruction=("You are Cleo Varga, cleo.varga5@mail.example. You want Two Harbours and A Map of Rivers."),
        actions=[
            Action(name="lend_book", kwargs={"user_id": "cleo_varga_436", "book_id": "5379"}),
            Action(name="lend_book", kwargs={"user_id": "cleo_varga_436", "book_id": "5231"}),
        ],
        outputs=[],
    ),
]
