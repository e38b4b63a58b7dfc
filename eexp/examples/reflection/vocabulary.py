"""English words that name no thing in an environment, and irregular forms, for the guards' rules about language.

A noun that is neither here nor in the texts that a writer was given counts as an invented thing
(`invented_names.invented`). So this list holds words for ideas, qualities, activities, people by occupation and whole
kinds of things ("food"), but no single object, place or animal. One form of a word is enough, and none of a word whose
ending says that it is an idea or a quality ("decision", `invented_names.is_ordinary`). Words of the training set-up are
here, too: another guard finds them.
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
        """ability able abrupt absolute accept acceptable access accomplish account accurate achieve act activity actual
        actually add additional address adequate adjacent adult advantage advice afternoon agent agree ahead ai aim air
        allow almost alone although among amongst analysis animal answer anybody anyone anything anywhere apart apparent
        appeal appear apply approach appropriate april area arm array arrival aside ask aspect asset assume attempt
        august author authority average avoid aware away awkward back background backward bad bargain barrier base basic
        basis become behavior behaviour belief belong benefit best bet better beyond big bigger black blank blind blue
        bonus boss bother bottom boundary boy breakthrough brief bright bring broad brown budget building burden busy
        button buy buyer calendar call calm candidate capacity care carry case catch cause center centimeters central
        centre certain certainty chain challenge change character cheap cheaper check checklist chef chemist child
        children choice choose circle city claim clarity clash clean cleaner clear clearer clearly clerk clever click
        close closer closure clue code cold colleague collect color colour come comfort comfortable command common
        compare comparison complete complex compromise concept concern concrete confident confirm conflict consensus
        consider constant constraint contact contain container contender content context continue contrast control
        convenient cook cool core corner correct cost count country couple courage course courtesy cover craft credit
        criteria cross crucial cue culture curiosity current currently customer cut cycle damage danger dark data date
        day dead deadline deal dear debate debt december decide deed deep default deficit definite degree delay delicate
        deliver demand demonstrator density depend dependency depth deserve design desire despite destroy detail
        determine detour device diagnosis differ different difficult difficulty dilemma direct directly dirty
        disadvantage disaster discipline discount discover discovery distant doctor dollar dose double doubt downstairs
        dozen draft drawback drink drive drop dry due dull duty eager early ease easier easy eat economy edge effect
        efficient effort eight elegant else elsewhere email emergency emphasis empty encounter endpoint energy english
        enough enter enthusiasm entire entry episode equal era errand error escape essential estimate ethics euros event
        eventual everybody everyone everything everywhere evident exact exactly exam examine example except exchange
        exciting excuse exercise exist expect expert expertise explain explore exposure extent extra extreme eye face
        fact factor fail failure fair faith fall false familiar family far farther fashion fast faster fault favor
        favour favourite feature february feed feedback feel feet fetch few fewer field figure file final finally find
        fine finger finish firm firstly fit fix flat flexibility flow focus folder folk food foolish foot force forget
        form formal format former forth fortune forward framework free freedom fresh friday friend front full fuller
        furniture further fuss future gain gamble game gap gather general gentle get girl gist give glimpse go gold
        golden good grab grams grasp great greater green grey grip ground group grow guarantee guess guest guide
        guideline habit half hand handle happen happy hard harder harm haste hazard head headway healthy hear heart heat
        heavy help helper hence hidden hide high higher hinder hint history hit hm hold home hope hot hour however huge
        human hunch hundred hundreds hungry hunt hurdle hurry hypothesis idea ideal identify identity ignore imagine
        immediate immediately impact important inches incident include indeed indicate individual indoors info
        ingredient inner input inquiry insert insight inspect instant instead instinct integrity intended intensity
        intent interface intermediate interval inventory involve irony irrelevant issue january job join journey july
        jump june justice keen keep key kill kilometers know knowledge label labor labour lack landmark language lap
        large larger late latter law lay layer layout lazy lead leap least leg legal lend length less lesson let level
        leverage liberty lie life lift light likelier likelihood likely limit line link listen little load local
        locality locate logic lonely long longer look loop loose lose lovely lover low lower luck lucky mad magnitude
        main major majority make man manage manager manner many march margin mark marker mass match material matter
        maximum maybe mean meanwhile measure meet memory men mere merely merit message meters method metres middle
        midnight miles milestone million mind mindset mine minimum minor minute miracle mismatch miss mistake mix
        mixture mode model moderate momentum monday month mood more moreover morning most mostly mouth move much
        multiple mystery name narrow natural nature nearby nearer nearly neat necessary necessity need neighbor
        neighbour neighbourhood neutral new nice nicer night nine nobody noise noon norm normal nothing notice november
        nowhere obstacle obtain occur october odd offer offset ok okay old once open opinion opponent opportunity
        opposite optimal order ordinary origin original otherwise ounces outcome outdoors outline output overall
        overhead overlap overview own owner pace page pain paradox paragraph parameter particular partly partner pass
        passage past path pattern pause pay peek penalty people percent percentage perfect perform perhaps period person
        personal phase phenomenon philosophy phrase pick picture pitfall plain plan plant play pleasant plenty point
        policy poor possibility potential pounds power practice precedent precise prefer preliminary premature premise
        premium prepare prerequisite present press pressure prevent price prime principle prior priority private
        privilege probability problem procedure proceed process produce product profile profit progress promise prompt
        proof proper property proposal prospect prove provide proximity pull pure purpose pursuit push put puzzle
        quality quantity quest quick quiet quite quota random range rank rare rash rate rather ratio rationale raw reach
        read ready real realise reality realize reason recent recipe recognise record recovery red redundant refer
        refund refuse region regret reject release relevant relief rely remain remainder remember reminder remote
        removal remove repeat replace reply report require rescue reserve resource respect response responsibility
        result retreat return reveal reversal reverse review reward rhythm rich rid rise risk role room rough roughly
        round route routine rule run rush sacrifice sad safe safer safety sake sample satisfactory satisfy saturday say
        scale scarcity scenario scene schedule scheme scientist scope score scrutiny search secondly secret secure see
        seek seem select sell seller send sense separate september series serve service setback settle seven severe
        shape share sharp shift short shortcut shorter shot shoulder show side sight sign signal silent similar simple
        simpler simplicity simply single sit six size skill skip slight slot slow small smaller smart smell smooth snag
        sole solely solid solve somebody somehow someone someplace something somewhere sound source space spare speak
        special specific spectrum speed spend spirit split spot stability stable staff stage stake stand standard
        standpoint start state statistics status stay stick stock stop storage store story straightforward strain
        strange strategy streak strength stress stretch strict strike strip strong stronger structure struggle stuck
        stuff stupid style subject substitute succeed success such sudden sufficient suit suitable sum summary sunday
        supply support suppose sure surer surface surprise surrounding suspicion switch symbol system tactic take
        takeaway talent talk tap target taste teacher team tell temperature tempting ten tend tendency term territory
        test text theory thereafter thereby therefore thick thin think thirdly though thoughts thousand thread threat
        threshold throw thursday thus tidy tie tight tiny tip today together tomorrow tone tonight tool top topic total
        touch tough toward town trace track trade trail trait trajectory transfer transport travel treat trend trial
        trigger trip trouble true trust truth try tuesday turn twice twist ultimate uncertainty unclear understanding
        undo unexplored unfamiliar unit unknown unlike unlikely unlock unnecessary unsearched unseen unusual unvisited
        upon upstairs urge urgency urgent usage user usual utility valid validity value variety vast venture verdict
        versus very vicinity victory view viewpoint virtue visit vital voice volume vote wait walk wander want warm
        warning wash waste watch weak wear website wednesday week weekend weight well wet white whole wide wild win
        wisdom wise wiser wish within woman women wonder word work worker world worry worse worst worth worthwhile
        worthy write wrong year yellow yes yesterday yield young zero zone"""
    )
)

#: Irregular verbs: the base, the past tense, and the participle where it is another form.
_IRREGULAR_VERBS = """be was been, become became, begin began begun, break broke broken, bring brought, buy bought,
choose chose chosen, come came, do did done, drink drank drunk, eat ate eaten, fall fell fallen, find found, get got
gotten, give gave given, go went gone, have had, hear heard, hold held, keep kept, know knew known, lead led, leave
left, lose lost, make made, meet met, run ran, say said, see saw seen, send sent, show showed shown, sit sat, speak
spoke spoken, stand stood, take took taken, tell told, think thought, throw threw thrown, write wrote written"""
_FORMS = [verb.split() for verb in _IRREGULAR_VERBS.split(",")]

IRREGULAR = {form: base for base, *forms in _FORMS for form in forms}  # irregular forms of verbs, with their base
IRREGULAR |= dict.fromkeys(["is", "are", "am", "were", "being"], "be") | {"does": "do", "has": "have"}

PAST_FORMS = frozenset(past for _, past, *_ in _FORMS) | {"were"}  # past forms that do not end in `-ed`

SAME_IN_THE_PAST = word_set("let put cut set read hit")  # verbs whose past form is their present form
