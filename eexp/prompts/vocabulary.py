"""Words of ordinary English that name no thing of a world, and irregular forms: what the guards know about language.

A noun that is neither here nor in what a writer was given is taken for an invented thing (`names.invented`). So this
list holds words for ideas, qualities, doings, people by what they do and whole kinds of things ("food"), but no single
object, place or animal. Words of the training set-up are here, too: another guard looks for them.
"""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


#: Words that may follow an article without naming a thing, and that end a noun phrase.
FUNCTION_WORDS = word_set(
    """a an the this that these those my your his her its our their some any each every all both no none
    and or but nor so yet if then than as because while when where who whom whose which what how why whether
    of in on at by to from with without into onto under over above below behind beside between near next inside outside
    out off up down through across along around after before until since ago for about against during via per like
    i me you he she it we they them us myself yourself itself there here one ones
    is are was were be been being am do does did done has have had having will would shall should can could may might
    must not only also just still already even again now soon later first last never always"""
)

#: Nouns that say how much of a thing there is, or that stand for something named elsewhere.
VAGUE_NOUNS = word_set(
    """task goal thing things object objects item items place places way step steps time one kind kinds sort type
    types piece pieces pair set list number amount part parts rest lot bit following right left same other others
    first second third last next end beginning one two three four five"""
)

#: Words that name no thing of a world.
ORDINARY = (
    FUNCTION_WORDS
    | VAGUE_NOUNS
    | word_set(
        """ability able abrupt absence absolute accept acceptable access accessible accomplish account accurate achieve
        act action activity actual add additional adequate adjacent advance advantage agent agents agree agreement
        ahead ai aim air allow almost alone alternative although among amongst animal answer anybody anyone anything
        apart apparent appear appliance apply approach appropriate april area argument arrangement arrival arrive
        aside ask aspect assume attempt attention august author available average avoid aware away awkward back
        background backward bad balance base basic basis become begin behavior behaviour belief believe belong
        benefit besides best bet better beyond big bigger biggest black blank blind blue bother bottom brief bright
        bring broad brown building burden business busy button buy buyer call calm candidate care careful careless
        carry case catch cause caution center central centre certain certainty chance change character cheap cheaper
        cheapest check chef chemist choice choose circumstance city claim clarity clash clean cleaner clear clearer
        clerk clever click close closed closer closest clue code cold collect color colour combination come comfort
        comfortable command comment common compare comparison competition complete complex complication concern
        conclusion concrete condition confident confirm conflict confusion consequence consider constant contact
        contain container containers contender content contents context continue contrast control convenience
        convenient conversation cook cooks cool core corner correct correction cost count country couple course
        cover creation credit criteria cross crucial cue current customer cut damage danger dangerous dark data date
        day dead deal dear december decide decision deed deep default definite degree delay delicate delicious
        deliver demand demonstration demonstrator depend description deserve deserves desire despite destroy detail
        details determine detour development device devices differ difference different difficult difficulty direct
        direction directions dirty disadvantage disaster discover discovery discussion distance distant doctor
        dollar dollars double doubt dozen draft drawback drink drop dry due dull duration duty eager early ease
        easier easiest easy eat economical effect effective efficient effort eight elegant element else elsewhere
        emergency emphasis empty enable endpoint english enough enter entire entry environment episode equal
        equipment error escape essence essential euros evening event eventual everybody everyone everything evidence
        evident exact exam examine example except exception exchange exciting excuse exist existence expect
        expectation expected expensive experience expert experts explain explanation exploration explore extent
        extra extreme eye eyes face fact factor fail failure fair faith fall false familiar famous far farther
        farthest fashion fast faster fault favor favour favourite feature february feed feel feeling fetch few fewer
        field figure file files fill final find finding fine finish firm fit fix flat flow focus folder folk follow
        food foolish force forget form formal format former forth fortune forward free freedom fresh friday front
        fruitful full fuller function furniture further furthest fuss future gain game gap gather general gentle get
        gist give given go gold golden good goods grab great greater greatest green grey ground group grow guess
        guest guide habit half hand handle hands happen happy hard harder hardest harm harmless haste head headway
        healthy hear heat heavy help helper helpful hence hers hesitation hidden hide high higher highest hinder
        hint history hit hm hold home honest hope hot hour however huge human hunch hundred hundreds hungry hunt
        hurry idea ideal identical identify identity ignore imagine immediate impact importance important impossible
        impression inclination include indeed indicate individual indoors inference influence info information
        ingredient ingredients inner input inquiry insert insight inspect inspection instance instant instead
        instinct instruction instructions intended intent intention interaction interest interesting intermediate
        intuition involve irrelevant issue january job join journey judgement judgment july jump june justification
        keen keep key kill know knowledge known label lack language large larger largest late latest latter law lay
        lazy lead leading leap least leave legal lend length less lesson let level lie life lift light likelier
        likeliest likelihood likely limit limitation limited limits line link listen little live local locality
        locate location logic logical lonely long longer longest look loop loose lose loss lovely lover low lower
        lowest luck lucky mad main major majority make man manage manner many march margin mark match material
        matter maximum maybe mean meaning meaningful means meanwhile measure meet memory mention mere message method
        middle million mind mine minimum minor minute miss missing mission mistake mix mode model moderate modest
        moment monday month mood more moreover morning most motion motive move movement much multiple name narrow
        natural nature nearby nearer nearest neat necessary need needed needs negative neighbor neighbour
        neighbourhood neutral nevertheless new nice nicer night nine nobody noise nonetheless norm normal note
        nothing notice notion november nowhere objective obstacle obtain obvious occasion occur october odd odds
        offer ok okay old once open operation opinion opportunity opposite optimal option options order ordinary
        original otherwise ours outcome outdoors output overall overview own owner pace page pages pain particular
        pass passage past path patience pattern pause pay people percent percentage perfect perform performance
        perhaps period permission person personal perspective phase phrase physical pick picture plain plan plant
        plausible play pleasant plenty point policy poor portion position positive possession possibility possible
        potential power practical practice precaution precious precise precision prefer preferable preference
        preferred preliminary premature preparation prepare presence present press pressure prevent previous price
        prime principle prior priority private privilege probability probable problem procedure proceed process
        produce product productive products progress promise promising proof proper property proportion prospect
        protection prove provide pull pure purpose push put puzzle quality quantity question quick quiet quite
        random range rank rare rash rate rather ratio raw reach reaction read reading ready real realise reality
        realize reason reasonable reasoning reasons receive recent recipe recognise record red redundant refer
        reference refuse regardless region regret reject relation release relevance relevant reliable rely remain
        remainder remaining remember reminder remote removal remove repeat replace reply report request require
        required requirement requirements resource respect respective response responsibility result results return
        reveal reverse reward rich rid rise risk role room rooms rough round route routine rule rules run rush sad
        safe safer safest safety sake sample satisfactory satisfy saturday save say scale scene scientist scope
        score search section secure see seek seem select selection sell seller send sense sensible separate
        september sequence series serious serve service session setting settle seven severe shape share sharp short
        shortcut shorter shortest show side sight sign signal silence silent similar simple simpler simplest single
        sit site situation six size skill skip slight slow small smaller smallest smart smell smooth sole solid
        solution solve somebody somehow someone something somewhere sound source space speak special specific speed
        spend spot stable stage stand standard start state statement status stay steadiness stick stop storage store
        story straightforward strange strategy strength stretch strict strike strip strong stronger strongest
        structure stuck stuff stupid style subject succeed success such sudden sufficient suggest suggestion suit
        suitable sum summary sunday superfluous supply support suppose sure surer surest surface surfaces surprise
        surrounding surroundings switch system take talk tap taste teacher team tell temperature temptation tempting
        ten tend tendency term terms test text theirs theme theory thereafter thereby therefore thick thin think
        though thought thoughts thousand thousands threat throw thursday thus tidy tie tight tiny today together
        tomorrow tonight too tool tools top topic total touch tough toward towards town trace track trade trajectory
        transfer transport travel treatment trial trip trouble true trust truth try tuesday turn twice typical
        ultimate uncertainty unclear understanding undo unexplored unfamiliar unit unknown unless unlike unlikely
        unlock unnecessary unsearched unseen unusual unvisited upon urgent use useful useless user usual valid
        valuable value variety various vast version versus very view visit vital voice wait walk wander want warm
        wash waste watch weak wear website wednesday week weight well wet white whole wide wild willingness win wise
        wiser wish within wonder word words work worker world worry worse worst worth worthwhile worthy write wrong
        year yellow yes yesterday yield young yours zero"""
    )
)

#: Irregular forms of verbs, by their base.
IRREGULAR = {
    form: base
    for base, forms in {
        "be": "is are was were am been being",
        "become": "became",
        "begin": "began begun",
        "break": "broke broken",
        "bring": "brought",
        "buy": "bought",
        "choose": "chose chosen",
        "come": "came",
        "do": "does did done",
        "drink": "drank drunk",
        "eat": "ate eaten",
        "fall": "fell fallen",
        "find": "found",
        "get": "got gotten",
        "give": "gave given",
        "go": "went gone",
        "have": "has had",
        "hear": "heard",
        "hold": "held",
        "keep": "kept",
        "know": "knew known",
        "lead": "led",
        "leave": "left",
        "lose": "lost",
        "make": "made",
        "meet": "met",
        "run": "ran",
        "say": "said",
        "see": "saw seen",
        "send": "sent",
        "show": "shown",
        "sit": "sat",
        "speak": "spoke spoken",
        "stand": "stood",
        "take": "took taken",
        "tell": "told",
        "think": "thought",
        "throw": "threw thrown",
        "write": "wrote written",
    }.items()
    for form in forms.split()
}

#: Past forms that are no `-ed`, and forms that are the same in present and past.
PAST_FORMS = word_set(
    """became began broke brought bought chose came did drank ate fell found got gave went had heard held kept knew led
    left lost made met ran said saw sent sat spoke stood took told thought threw wrote was were"""
)

#: Verbs whose past is their present.
SAME_IN_THE_PAST = word_set("""let put cut set read hit""")
