"""The words of the phrase grammar, by part of speech."""

LEXICON: dict[str, tuple[str, ...]] = {
    kind: tuple(words.split())
    for kind, words in {
        "name": """anna ben clara david emma felix grace henry iris jacob kate leo maria noah
            olive peter quinn rosa simon tessa victor wendy oscar daisy hugo alice martin nora
            edgar lucy""",
        "person": """doctor sailor teacher farmer baker painter soldier lawyer nurse tailor hunter
            miller priest driver student writer singer dancer barber butcher captain carpenter
            clerk cook engineer fisherman gardener guard judge king queen merchant messenger
            neighbour officer pilot plumber poet porter prince sculptor servant sheriff shepherd
            stranger waiter widow uncle cousin mother father brother sister child""",
        "animal": """fox dog cat horse rabbit wolf bear deer goat sheep donkey camel monkey tiger
            lion eagle raven swan goose duck hen owl pigeon parrot salmon otter beaver badger
            squirrel hedgehog mouse spider beetle turtle snake frog lizard whale dolphin pony""",
        "object": """letter basket bottle mirror candle lantern hammer ladder blanket bucket
            button carpet chair clock coat coin cup curtain desk diary drum envelope fence flag
            flute fork glove guitar hat helmet jacket jar kettle key knife lamp map medal mug
            necklace needle net notebook oar painting paper pen pencil piano pillow pipe plate pot
            purse ring robe rope sack saddle scarf shawl shirt shoe shovel spoon stool suitcase
            sword table ticket towel toy trumpet umbrella vase violin wagon watch wheel whistle
            bell book box brush photograph statue telescope compass""",
        "food": """apple bread butter cabbage cake carrot cheese cherry chicken coffee corn cream
            fish garlic grape honey lemon melon milk mushroom onion orange peach pear pepper pie
            plum potato pumpkin rice salt sausage soup sugar tea tomato turnip walnut""",
        "place": """harbour market garden kitchen cellar station castle bridge forest river valley
            mountain village church tower library museum theatre hospital prison school factory
            cottage palace temple island beach desert meadow orchard stable workshop bakery tavern
            courtyard corridor balcony attic cave cliff field farm hotel lake lighthouse mill park
            pond quarry road square street swamp tunnel vineyard""",
        "adjective": """small big old young tall short quiet loud happy sad brave clever lazy
            hungry thirsty tired gentle cruel noble humble proud rich poor strong weak quick slow
            bright dark heavy light round flat sharp soft smooth rough warm cold wet dry clean
            dirty empty full new ancient broken golden silver wooden rusty dusty shiny strange
            famous secret simple perfect narrow wide deep hollow curious nervous jealous patient
            friendly lonely angry foolish""",
        "colour": "red blue green yellow purple brown grey pink white black scarlet",
        "transitive": """found lost sold bought carried dropped lifted painted cleaned repaired
            broke opened closed hid showed brought borrowed stole threw caught kept left moved
            noticed praised pulled pushed raised wanted touched watched wrapped admired buried
            burned chose counted delivered described destroyed examined followed forgot held
            ignored inspected loved measured ordered offered picked polished remembered saved
            shook""",
        "intransitive": """waited slept laughed cried sang danced walked ran jumped fell smiled
            whispered shouted worked played rested arrived vanished returned escaped sneezed
            trembled wandered stumbled listened prayed shivered sighed yawned swam""",
        "saying": "said thought knew believed heard hoped feared claimed replied guessed",
        "adverb": """slowly quickly quietly loudly gently suddenly carefully bravely gladly calmly
            eagerly softly proudly sadly secretly often never always rarely twice again soon""",
        "time": """monday tuesday wednesday thursday friday saturday sunday january february march
            april may june july august september october november december""",
        "season": "spring summer autumn winter",
        "daytime": "morning evening noon midnight dawn dusk sunrise sunset",
        "number": """two three four five six seven eight nine ten eleven twelve twenty thirty
            forty fifty""",
        "weather": "rain snow storm wind fog thunder sunshine frost hail heat",
        "abstract": """courage patience wisdom silence freedom justice beauty danger fortune
            friendship memory music peace sorrow truth victory wealth work youth""",
        "plural": """ships birds trees flowers stones clouds stars windows doors soldiers children
            horses letters houses boats wolves sheets apples candles mountains rivers books songs
            stories""",
        "plural_verb": """stood fell shone burned moved waited turned grew froze melted floated
            drifted gathered scattered rolled""",
    }.items()
}
