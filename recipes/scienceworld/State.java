package eexp;

import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import sun.misc.Unsafe;

/**
 * The state of one ScienceWorld episode: the interface that plays it, and the variables that all interfaces in a JVM
 * share, such as the number of the next object and the state of the random numbers.
 *
 * Before the interface of a state is used, the shared variables have to be those of that state: `enter` writes them, and
 * `leave` keeps them. One thread at a time may work with states.
 */
public final class State {
    private static final Unsafe UNSAFE = Shape.UNSAFE;

    /** The interface, of class scienceworld.runtime.pythonapi.PythonInterface. */
    private final Object episode;

    /** The shared variables: where each is, and its value in this state. */
    private final Place[] places;
    private final Object[] values;

    /**
     * Keep the state of an interface with the shared variables as they are now.
     *
     * @param singletons the classes of the singletons that may have variables, with commas between them
     */
    public State(Object episode, String singletons) throws ReflectiveOperationException {
        this.episode = episode;
        this.places = places(singletons.split(","));
        this.values = new Object[places.length];
        leave();
    }

    private State(Object[] parts, Place[] places) {
        this.episode = parts[0];
        this.places = places;
        this.values = (Object[]) parts[1];
    }

    /** Write the shared variables of this state to where the simulator looks for them. */
    public void enter() {
        for (int i = 0; i < places.length; i++) places[i].write(values[i]);
    }

    /** Keep the shared variables as they are now. */
    public void leave() {
        for (int i = 0; i < places.length; i++) values[i] = places[i].read();
    }

    /** Return an independent copy of this state, which must have been left. */
    public State copy() {
        return new State((Object[]) new Copier().copy(new Object[] {episode, values}), places);
    }

    /** Return a copy of the shared variables as they are now, as a state without an interface. */
    public State variables() {
        leave();
        return new State((Object[]) new Copier().copy(new Object[] {null, values}), places);
    }

    /** Return a number that two states, which must have been left, have in common if they are equal. */
    public long fingerprint() {
        return new Fingerprint().of(new Object[] {episode, values});
    }

    public Object episode() {
        return episode;
    }

    /** Find every variable of the singletons, and the state of Scala's random numbers. */
    private static Place[] places(String[] singletons) throws ReflectiveOperationException {
        List<Place> places = new ArrayList<>();
        for (String name : singletons) {
            Object singleton = singleton(name);
            for (Field field : singleton.getClass().getDeclaredFields())
                if (!Modifier.isStatic(field.getModifiers())) places.add(new Place(singleton, field));
        }
        Object random = singleton("scala.util.Random$");
        Object generator = random.getClass().getMethod("self").invoke(random);
        Field seed = Random.class.getDeclaredField("seed");
        Object number = UNSAFE.getObject(generator, UNSAFE.objectFieldOffset(seed));
        places.add(new Place(number, number.getClass().getDeclaredField("value")));
        return places.toArray(new Place[0]);
    }

    private static Object singleton(String name) throws ReflectiveOperationException {
        return Class.forName(name).getField("MODULE$").get(null);
    }

    /** A field of one object, which is of type long or holds a reference. */
    private static final class Place {
        final String name;
        private final Object owner;
        private final long offset;
        private final boolean number;

        Place(Object owner, Field field) {
            name = field.getDeclaringClass().getName() + "." + field.getName();
            Class<?> type = field.getType();
            number = type == long.class;
            if (type.isPrimitive() && !number) throw new IllegalArgumentException(name + " is a " + type);
            this.owner = owner;
            offset = UNSAFE.objectFieldOffset(field);
        }

        Object read() {
            return number ? (Object) UNSAFE.getLong(owner, offset) : UNSAFE.getObject(owner, offset);
        }

        void write(Object value) {
            if (number) UNSAFE.putLong(owner, offset, (Long) value);
            else UNSAFE.putObject(owner, offset, value);
        }
    }
}
