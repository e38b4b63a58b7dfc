from .add_volume import AddVolume
from .calculate import Calculate
from .find_user_id_by_email import FindUserIdByEmail
from .get_book_details import GetBookDetails
from .get_user_details import GetUserDetails
from .lend_book import LendBook
from .list_all_genres import ListAllGenres
from .pay_fee import PayFee
from .remove_book import RemoveBook
from .rename_genre import RenameGenre
from .return_books import ReturnBooks
from .think import Think
from .transfer_to_human_agents import TransferToHumanAgents

ALL_TOOLS = [
    AddVolume,
    Calculate,
    FindUserIdByEmail,
    GetBookDetails,
    GetUserDetails,
    LendBook,
    ListAllGenres,
    PayFee,
    RemoveBook,
    RenameGenre,
    ReturnBooks,
    Think,
    TransferToHumanAgents,
]
