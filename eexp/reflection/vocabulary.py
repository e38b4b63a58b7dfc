"""English words that name no thing in an environment, and irregular forms, for the guards' rules about language.

A noun that is neither here nor in the texts that a writer was given counts as an invented thing (`names.invented`). So
this list holds words for ideas, qualities, activities, people by occupation and whole kinds of things ("food"), but no
single object, place or animal. Words of the training set-up are here, too: another guard finds them.
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

#: Nouns for amounts, and nouns that refer to something named elsewhere.
VAGUE_NOUNS = word_set(
    """task goal thing things object objects item items place places way step steps time one kind kinds sort type
    types piece pieces pair set list number amount part parts rest lot bit following right left same other others
    first second third last next end beginning one two three four five"""
)

#: Words that name no thing in an environment.
ORDINARY = (
    FUNCTION_WORDS
    | VAGUE_NOUNS
    | word_set(
        """ability able abrupt absence absolute accept acceptable access accessible accomplish account accurate achieve
        act action activity actual actually add additional address adequate adjacent adult advance advantage advice
        afternoon agent agents agree agreement ahead ai aim air allow almost alone alternative although ambition
        among amongst analysis animal answer anticipation anybody anyone anything anywhere apart apparent appeal
        appear appliance apply appointment approach appropriate april area argument arm arrangement array arrival
        arrive aside ask aspect asset assume assumption assurance attempt attention august author authority
        available average avoid aware away awkward back background backward bad balance bargain barrier base basic
        basis become begin behavior behaviour belief believe belong benefit besides best bet better beyond big
        bigger biggest black blank blind blue bonus boss bother bottom boundary boy breakthrough brief bright bring
        broad brown budget building burden business busy button buy buyer calendar call calm candidate capacity care
        careful careless carry case catch cause caution center centimeters central centre certain certainty chain
        challenge chance change character cheap cheaper cheapest check checklist chef chemist child children choice
        choose circle circumstance city claim clarity clash clean cleaner clear clearer clearly clerk clever click
        close closed closer closest closure clue code coincidence cold colleague collect color colour combination
        come comfort comfortable command comment common compare comparison competition complete complex complication
        compromise concept concern conclusion concrete condition confidence confident confirm conflict confusion
        consensus consequence consider consideration constant constraint contact contain container containers
        contender content contents context continue contrast contribution control convenience convenient convention
        conversation cook cooks cool core corner correct correction cost count country couple courage course
        courtesy cover craft creation credit criteria cross crucial cue culture curiosity current currently customer
        cut cycle damage danger dangerous dark data date day dead deadline deal dear debate debt december decide
        decision deed deep default deficit definite definition degree degrees delay delicate delicious deliver
        demand demonstration demonstrator density depend dependency depth description deserve deserves design desire
        despite destroy detail details determine detour development device devices diagnosis differ difference
        different difficult difficulty dilemma dimension direct direction directions directly dirty disadvantage
        disaster discipline discount discover discovery discussion distance distant distinction division doctor
        dollar dollars dose double doubt downstairs dozen draft drawback drink drive drop dry due dull duration duty
        eager early ease easier easiest easy eat economical economy edge effect effective efficient effort eight
        elegant element elimination else elsewhere email emergency emphasis empty enable encounter endpoint energy
        english enough enter enthusiasm entire entry environment episode equal equipment era errand error escape
        essence essential estimate ethics euros evaluation evening event eventual everybody everyone everything
        everywhere evidence evident exact exactly exam examine example except exception exchange exciting excuse
        exercise exist existence expect expectation expected expensive experience expert expertise experts explain
        explanation exploration explore exposure extent extra extreme eye eyes face fact factor fail failure fair
        faith fall false familiar family famous far farther farthest fashion fast faster fault favor favour
        favourite feature february feed feedback feel feeling feet fetch few fewer field figure file files fill
        final finally find finding fine finger finish firm firstly fit fix flat flexibility flow focus folder folk
        follow food foolish foot force forget form formal format former forth fortune forward foundation fraction
        framework free freedom fresh friction friday friend front fruitful full fuller function furniture further
        furthest fuss future gain gamble game gap gather general gentle get girl gist give given glance glimpse go
        gold golden good goods grab grams grasp great greater greatest green grey grip ground group grow guarantee
        guess guest guide guideline habit half hand handful handle hands happen happy hard harder hardest harm
        harmless haste hazard head headway healthy hear heart heat heavy help helper helpful hence hers hesitation
        hidden hide high higher highest hinder hint history hit hm hold home honest hope hot hour hours however huge
        human hunch hundred hundreds hungry hunt hurdle hurry hypothesis idea ideal identical identify identity
        ignore illusion imagine immediate immediately impact implication importance important impossible impression
        incentive inches incident inclination include inconvenience indeed indicate indication individual indoors
        inference influence info information ingredient ingredients initiative inner input inquiry insert insight
        inspect inspection instance instant instead instinct instruction instructions integrity intended intensity
        intent intention interaction interest interesting interface intermediate interval intuition inventory
        investment involve irony irrelevant issue january job join journey judgement judgment july jump june justice
        justification keen keep key kill kilometers know knowledge known label labor labour lack landmark language
        lap large larger largest late latest latter law lay layer layout lazy lead leading leap least leave leg
        legal lend length less lesson let level leverage liberty lie life lift light likelier likeliest likelihood
        likely limit limitation limited limits line link listen little live load local locality locate location
        logic logical lonely long longer longest look loop loose lose loss lovely lover low lower lowest luck lucky
        mad magnitude main major majority make man manage manager manner many march margin mark marker mass match
        material matter maximum maybe mean meaning meaningful means meanwhile measure mechanism meet meeting memory
        men mention mere merely merit message meters method metres middle midnight miles milestone million mind
        mindset mine minimum minor minute minutes miracle mismatch miss missing mission mistake mix mixture mode
        model moderate modest moment momentum monday month months mood more moreover morning most mostly motion
        motivation motive mouth move movement much multiple mystery name narrative narrow natural nature nearby
        nearer nearest nearly neat necessary necessity need needed needs negative negotiation neighbor neighbour
        neighbourhood neutral nevertheless new nice nicer night nine nobody noise nonetheless noon norm normal note
        nothing notice notion november nowhere nuance objection objective obligation observation obstacle obtain
        obvious occasion occur october odd odds offer offset ok okay old omission once open opening operation
        opinion opponent opportunity opposite optimal option options order ordinary orientation origin original
        otherwise ounces ours outcome outdoors outline output overall overhead overlap overview own owner pace page
        pages pain paradox paragraph parameter parameters participation particular partly partner pass passage
        passion past path patience pattern pause pay payment peek penalty people percent percentage perception
        perfect perform performance perhaps period permission person personal perspective phase phenomenon
        philosophy phrase physical pick picture pitfall plain plan plant plausible play pleasant plenty point policy
        poor portion position positive possession possibility possible potential pounds power practical practice
        precaution precedent precious precise precision prediction prefer preferable preference preferred
        preliminary premature premise premium preparation prepare prerequisite presence present press pressure
        prevent previous price prime principle prior priority private privilege probability probable problem
        procedure proceed process produce product productive products profile profit progress promise promising
        prompt proof proper property proportion proposal prospect protection prove provide provision proximity pull
        pure purpose pursuit push put puzzle quality quantity quest question quick quiet quite quota random range
        rank rare rash rate rather ratio rationale raw reach reaction read readiness reading ready real realise
        reality realize reason reasonable reasoning reasons receive recent recipe recognise record recovery red
        reduction redundant refer reference refinement reflection refund refuse regardless region regret reject
        relation release relevance relevant reliable relief rely remain remainder remaining remember reminder remote
        removal remove repeat replace replacement reply report reputation request require required requirement
        requirements rescue reserve resistance resolution resource respect respective response responsibility
        restriction result results retreat return reveal reversal reverse review revision reward rhythm rich rid
        ride rise risk role room rooms rough roughly round route routine rule rules run rush sacrifice sad safe
        safer safest safety sake sample satisfaction satisfactory satisfy saturday save say scale scarcity scenario
        scene schedule scheme scientist scope score scrutiny search secondly seconds secret section secure see seek
        seem segment select selection sell seller send sense sensible sentence separate september sequence series
        serious serve service session setback setting settle seven severe shape share sharp shift short shortcut
        shorter shortest shot shoulder show side sight sign signal silence silent similar simple simpler simplest
        simplicity simply single sit site situation six size skill skip slight slot slow small smaller smallest
        smart smell smooth snag sole solely solid solution solve somebody somehow someone someplace something
        somewhere sound source space spare speak special specific spectrum speed spend spirit split spot stability
        stable staff stage stake stance stand standard standpoint start state statement statistics status stay
        steadiness stick stock stop storage store story straightforward strain strange strategy streak strength
        stress stretch strict strike strip strong stronger strongest structure struggle stuck stuff stupid style
        subject substance substitute succeed success such sudden sufficient suggest suggestion suit suitable sum
        summary sunday superfluous supply support suppose sure surer surest surface surfaces surprise surrounding
        surroundings suspicion switch symbol system tactic take takeaway talent talk tap target taste teacher team
        tell temperature temptation tempting ten tend tendency tension term terms territory test text theirs theme
        theory thereafter thereby therefore thick thin think thirdly though thought thoughts thousand thousands
        thread threat threshold throw thursday thus tidy tie tight timing tiny tip today together tolerance tomorrow
        tone tonight too tool tools top topic total touch tough toward towards town trace track trade trail trait
        trajectory transaction transfer transition transport travel treat treatment trend trial trigger trip trouble
        true trust truth try tuesday turn twice twist typical ultimate uncertainty unclear understanding undo
        unexplored unfamiliar unit unknown unless unlike unlikely unlock unnecessary unsearched unseen unusual
        unvisited upon upstairs urge urgency urgent usage use useful useless user usual utility valid validity
        valuable value variable variation variety various vast venture verdict version versus very vicinity victory
        view viewpoint virtue vision visit vital voice volume vote wait walk wander want warm warning wash waste
        watch weak wear website wednesday week weekend weeks weight well wet white whole wide wild willingness win
        wisdom wise wiser wish within woman women wonder word words work worker world worry worse worst worth
        worthwhile worthy write wrong year years yellow yes yesterday yield young yours zero zone"""
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

#: Past forms that do not end in `-ed`.
PAST_FORMS = word_set(
    """became began broke brought bought chose came did drank ate fell found got gave went had heard held kept knew led
    left lost made met ran said saw sent sat spoke stood took told thought threw wrote was were"""
)

#: Verbs whose past form is their present form.
SAME_IN_THE_PAST = word_set("""let put cut set read hit""")
