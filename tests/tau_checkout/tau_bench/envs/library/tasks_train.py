from tau_bench.types import Action, Task

TASKS_TRAIN = [
    Task(
        annotator="0",
        user_id="ada_moss_410",
        instruction=(
            "You are Ada Moss, ada.moss3@mail.example. You bring back The Long Orchard, which is as good as new."
        ),
        actions=[
            Action(name="return_books", kwargs={"user_id": "ada_moss_410", "book_ids": ["5157"], "state": "good"})
        ],
        outputs=[],
    ),
    Task(
        annotator="0",
        user_id="ben_okoro_423",
        instruction=(
            "You are Ben Okoro, ben.okoro4@mail.example. "
            "You bring Winter Bread back, with soup on it, and want to borrow Salt and Iron."
        ),
        actions=[
            Action(name="return_books", kwargs={"user_id": "ben_okoro_423", "book_ids": ["5268"], "state": "damaged"}),
            Action(name="lend_book", kwargs={"user_id": "ben_okoro_423", "book_id": "5120"}),
        ],
        outputs=[],
    ),
    Task(
        annotator="0",
        user_id="cleo_varga_436",
        instruction=(
            "You are Cleo Varga, cleo.varga5@mail.example. "
            "You pay 1.5 of your fees and want to know, to the cent, what is left."
        ),
        actions=[
            Action(name="find_user_id_by_email", kwargs={"email": "cleo.varga5@mail.example"}),
            Action(name="pay_fee", kwargs={"user_id": "cleo_varga_436", "amount": 1.5}),
            Action(name="calculate", kwargs={"expression": "4 - 1.5"}),
        ],
        outputs=["2.5"],
    ),
    Task(
        annotator="0",
        user_id="dag_lund_449",
        instruction=(
            "You are Dag Lund, dag.lund6@mail.example. "
            "You want to borrow Moss. If that is impossible you want Counting Stars."
        ),
        actions=[
            Action(name="get_book_details", kwargs={"book_id": "5342"}),
            Action(name="lend_book", kwargs={"user_id": "dag_lund_449", "book_id": "5342"}),
            Action(name="lend_book", kwargs={"user_id": "dag_lund_449", "book_id": "5194"}),
        ],
        outputs=[],
    ),
    Task(
        annotator="0",
        user_id="eva_rossi_462",
        instruction=("You are Eva Rossi, eva.rossi7@mail.example. You want the fees of Ada Moss to be struck off."),
        actions=[],
        outputs=[],
    ),
    Task(
        annotator="0",
        user_id="eva_rossi_462",
        instruction=("You are Eva Rossi, eva.rossi7@mail.example. You are angry and want to speak to a librarian."),
        actions=[Action(name="transfer_to_human_agents", kwargs={"summary": "She is angry."})],
        outputs=[],
    ),
]
